// contract.mjs DOCS: validates openapi.yaml against OpenAPI's schema, makes types for TypeScript from the payloads' schemas, and compiles
// them with the examples. Prints the version and the headers that openapi.yaml names.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { Validator } from "@seriousme/openapi-schema-validator";
import { compile } from "json-schema-to-typescript";
import { parse } from "yaml";

const docs = process.argv[2];
const folder = dirname(fileURLToPath(import.meta.url));
const json = (file) => JSON.parse(readFileSync(join(docs, file), "utf8"));

function inlined(value) {
  if (Array.isArray(value)) return value.map(inlined);
  if (value === null || typeof value !== "object") return value;
  if (value.externalValue && !existsSync(join(docs, value.externalValue))) throw new Error(`no ${value.externalValue}`);
  if (value.$ref && !value.$ref.startsWith("#")) {
    // Within another document the definitions of a schema have other names.
    const { $defs, $id, $schema, ...schema } = json(value.$ref);
    return JSON.parse(JSON.stringify(schema), (_, part) => (part?.$ref ? $defs[part.$ref.split("/").pop()] : part));
  }
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, inlined(part)]));
}

const openapi = inlined(parse(readFileSync(join(docs, "openapi.yaml"), "utf8"), { merge: true }));
const { valid, errors } = await new Validator().validate(openapi);
if (!valid) throw new Error(JSON.stringify(errors, null, 2));
const events = Object.keys(openapi.webhooks).sort();
if (events.join() !== "certificate_completed,certificate_expired") throw new Error(events);

let program = "";
for (const event of events) {
  const schema = json(`schemas/${event}.schema.json`);
  writeFileSync(join(folder, `${event}.ts`), await compile(schema, event));
  const example = JSON.stringify(json(`schemas/${event}.example.json`));
  program += `import type { ${schema.title} } from "./${event}.js";\nexport const ${event}: ${schema.title} = ${example};\n`;
}
// What the types must refuse.
program += '// @ts-expect-error: it has no id\nexport const odd: CertificateExpired = { _ownerId: "1" };\n';
writeFileSync(join(folder, "program.ts"), program);
const tsc = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc");
execFileSync(process.execPath, [tsc, "--strict", "--noEmit", "--skipLibCheck", "--module", "nodenext", "program.ts"], { cwd: folder, stdio: ["ignore", "inherit", "inherit"] });

console.log(JSON.stringify({ version: openapi.info.version, headers: Object.values(openapi.components.parameters).map((one) => one.name) }));
