//! The contract for machines: schemas and OpenAPI are valid, the examples are what is sent, and types are made from them.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::fixture::Outcome;
use crate::fixture::contract::{COMPLETED, EXPIRED, faults};
use crate::standard_webhooks::libraries;

const PAGE: &str = include_str!("../../docs/receivers.md");
const COMPLETED_EXAMPLE: &str = include_str!("../../docs/schemas/certificate_completed.example.json");
const EXPIRED_EXAMPLE: &str = include_str!("../../docs/schemas/certificate_expired.example.json");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs it, and returns what it prints.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a script of tests/data/interop prints of a folder.
fn node(script: &str, folder: &str) -> Value {
    let home = libraries::node().get_current_dir().unwrap().to_owned();
    let work = tempfile::tempdir_in(home).unwrap();
    let path = work.path().join(script);
    std::fs::copy(libraries::data(script), &path).unwrap();
    let told = output(libraries::node().arg(path).arg(root().join(folder)));
    serde_json::from_str(&told).unwrap()
}

#[test]
fn the_examples_are_what_the_schemas_say_and_other_documents_are_not() {
    assert_eq!(faults("certificate_completed", COMPLETED_EXAMPLE.as_bytes()), [""; 0]);
    assert_eq!(faults("certificate_expired", EXPIRED_EXAMPLE.as_bytes()), [""; 0]);
    let example: Value = serde_json::from_str(EXPIRED_EXAMPLE).unwrap();
    for (field, value) in [
        ("_id", Value::from(7)),
        ("_ownerId", Value::Null),
        ("expires", Value::Null),
        ("expires", "2024-11-27T10:30:00Z".into()),
        ("expiryReminderSent", false.into()),
        ("disabled", "no".into()),
        ("_lessonActiveIds", "674700000000000000000005".into()),
        ("ruleData", "track".into()),
    ] {
        let mut odd = example.clone();
        odd[field] = value.clone();
        let faults = faults("certificate_expired", odd.to_string().as_bytes());
        assert_eq!(faults.len(), 1, "{field}: {value}: {faults:?}");
    }
    let mut more = example;
    more["score"] = 17.into();
    more["_id"] = "an-id-that-is-no-ObjectId".into();
    more.as_object_mut().unwrap().remove("ruleData");
    assert_eq!(faults("certificate_expired", more.to_string().as_bytes()), [""; 0]);
}

#[test]
fn the_example_of_an_expiry_is_that_of_the_page() {
    let (_, example) = PAGE.split_once("<!-- example -->").unwrap();
    let body = example.lines().find(|line| line.starts_with('{')).unwrap();
    let [page, file]: [Value; 2] = [body, EXPIRED_EXAMPLE].map(|text| serde_json::from_str(text).unwrap());
    assert_eq!(page, file);
}

/// The fields of the page's table are those of the schemas, but for Mongoose's own.
#[test]
fn the_fields_of_the_page_are_those_of_the_schemas() {
    let rows = PAGE.split_once("| field | meaning |").unwrap().1;
    let rows = rows.lines().skip(2).take_while(|row| row.starts_with('|'));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap());
    let mut fields: Vec<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    fields.retain(|field| *field != "__v");
    fields.sort_unstable();
    for text in [COMPLETED, EXPIRED] {
        let schema: Value = serde_json::from_str(text).unwrap();
        let mut known: Vec<_> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        known.sort_unstable();
        assert_eq!(known, fields);
    }
}

/// OpenAPI's own schema, and the page's headers; types of both payloads compile with TypeScript, and the examples are of them.
#[test]
fn openapi_is_valid_and_types_for_typescript_compile() {
    let told = node("contract.mjs", "docs");
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    let mut headers: Vec<_> = told["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    headers.sort_unstable();
    // Those of every body, and what the endpoint's own document decides, are not parameters.
    let table = PAGE.split_once("| header | value |").unwrap().1;
    let rows = table.lines().skip(2).take_while(|row| row.starts_with("| `"));
    let mut of_page: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    of_page.retain(|name| !["Content-Type", "Authorization"].contains(name));
    of_page.sort_unstable();
    assert_eq!(headers, of_page);
}

#[test]
fn types_for_python_compile_and_the_examples_are_of_them() {
    let home = libraries::python_with("types.txt")
        .get_current_dir()
        .unwrap()
        .to_owned();
    let folder = tempfile::tempdir_in(home).unwrap();
    for (event, class, example) in [
        ("certificate_completed", "Certificatecompleted", COMPLETED_EXAMPLE),
        ("certificate_expired", "Certificateexpired", EXPIRED_EXAMPLE),
    ] {
        let types = folder.path().join(format!("{event}.py"));
        let schema = root().join(format!("docs/schemas/{event}.schema.json"));
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        output(
            libraries::python_with("types.txt")
                .args(["-c", "from jsonschema_gentypes.cli import main; main()"])
                .args([option("json-schema", &schema), option("python", &types)]),
        );
        let script = format!(
            "import json, sys\nsys.path.insert(0, {:?})\nfrom {event} import {class}\n\
             fields = set({class}.__annotations__)\nexample = json.loads({example:?})\n\
             print(sorted(set(example) - fields), sorted({class}.__required_keys__ - set(example)))\n",
            folder.path(),
        );
        let told = output(libraries::python_with("types.txt").args(["-c", &script]));
        assert_eq!(told.trim(), "['__v'] []", "{event}");
    }
}

/// Neither file is run by any test: they are held to the schemas of Compose and Kubernetes, and the configuration to ours.
#[tokio::test]
async fn compose_file_and_kubernetes_manifest_are_valid() {
    let documents = node("deploy.mjs", "docs/deploy");
    let text = |path: &str| documents.pointer(path).and_then(Value::as_str).unwrap().to_owned();
    assert_eq!([text("/0/kind"), text("/1/kind")], ["ConfigMap", "Deployment"]);
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().join("mongodb-uri");
    std::fs::write(&uri, "mongodb://db1,db2,db3/?replicaSet=rs0\n").unwrap();
    let config = folder.path().join("config.toml");
    let settings = text("/0/data/config.toml").replace("/run/secrets/certhookd/mongodb-uri", uri.to_str().unwrap());
    std::fs::write(&config, settings).unwrap();
    let mut check = tokio::process::Command::new(env!("CARGO_BIN_EXE_certhookd"));
    check
        .arg("--config")
        .arg(&config)
        .args(["check", "--config-only"])
        .env_clear();
    let check = Outcome::of(check).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    let container = documents.pointer("/1/spec/template/spec/containers/0").unwrap();
    let port = container.pointer("/ports/0/containerPort").unwrap();
    assert!(text("/0/data/config.toml").contains(&format!(":{port}\"")));
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
    }
}
