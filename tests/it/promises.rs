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
    let sources: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
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
        let last = name.rsplit("::").next().unwrap();
        let is_module = files.iter().any(|file| file.file_stem().unwrap() == last);
        let test = format!("fn {last}(");
        assert!(
            is_module || sources.iter().any(|source| source.contains(&test)),
            "{name}"
        );
    }
}
