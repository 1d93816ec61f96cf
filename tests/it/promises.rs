//! The table of promises in docs/guarantees.md names the tests that hold each.

use std::fs;
use std::path::{Path, PathBuf};

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The path of that file's module, within the crate or its tests.
fn module(root: &Path, file: &Path) -> String {
    let within = ["src", "tests/it", "tests"].map(|directory| file.strip_prefix(root.join(directory)));
    let path = within.into_iter().find_map(Result::ok).unwrap().with_extension("");
    let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
    parts.join("::")
}

fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let is_of_that_name = |line: &str| {
        line.split_once("fn ")
            .is_some_and(|(_, rest)| rest.starts_with(&format!("{name}(")))
    };
    lines
        .windows(2)
        .any(|pair| pair[0].ends_with("test]") && is_of_that_name(pair[1]))
}

/// What is between backticks and could be the name of a test or of its module.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.chars().all(|c| c.is_alphanumeric() || "_:".contains(c)))
}

#[test]
fn each_test_that_the_table_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for directory in ["src", "tests"] {
        rust_files(&root.join(directory), &mut files);
    }
    let modules: Vec<_> = files
        .iter()
        .map(|file| (module(root, file), fs::read_to_string(file).unwrap()))
        .collect();
    let page = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let (_, promises) = page.split_once("| promise | limits | held by |").unwrap();
    let rows: Vec<_> = promises
        .lines()
        .skip(2)
        .take_while(|row| row.starts_with('|'))
        .collect();
    assert!(rows.len() > 20, "{rows:#?}");
    let cells = rows
        .iter()
        .map(|row| row.trim_end_matches('|').rsplit('|').next().unwrap());
    for name in cells.flat_map(names) {
        // One without a path may be anywhere.
        let (path, last) = name.rsplit_once("::").unwrap_or(("", name));
        let is_within = |module: &str| path.is_empty() || module == path;
        let is_named = |module: &str| module == name || path.is_empty() && module.rsplit("::").next() == Some(last);
        let is_there =
            |(module, source): &(String, String)| is_named(module) || is_within(module) && has_test(source, last);
        assert!(modules.iter().any(is_there), "{name}");
    }
}
