//! docs/troubleshoot.md explains every WARN and ERROR of the code, and none that is gone.

use std::fs;

use super::{files, root};

const PAGE: &str = include_str!("../../../docs/troubleshoot.md");

/// Stands for what is only known at run time.
const HOLE: char = '…';

/// The messages that the source logs at WARN and ERROR, with [`HOLE`]s: the last literal within each of these macros.
fn messages(source: &str) -> Vec<String> {
    // Tests are at the end of a file.
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let calls = ["warn!(", "error!(", "line!("]
        .iter()
        .flat_map(|name| code.match_indices(name));
    let is_call = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    // `line!` is told its level.
    let is_loud = |call: &str| {
        ["warn,", "error,"]
            .iter()
            .any(|level| call.trim_start().starts_with(level))
    };
    calls
        .filter(|(at, name)| is_call(*at) && (*name != "line!(" || is_loud(&code[at + name.len()..])))
        .filter_map(|(at, name)| last_literal(&code[at + name.len()..]))
        .map(|literal| with_holes(&literal))
        .collect()
}

/// The last string literal up to the parenthesis that closes the call.
fn last_literal(call: &str) -> Option<String> {
    let (mut depth, mut literal, mut last) = (1, None::<String>, None);
    let mut characters = call.chars();
    while let Some(c) = characters.next() {
        match (&mut literal, c) {
            (Some(text), '\\') => text.extend(characters.next()),
            (Some(_), '"') => last = literal.take(),
            (Some(text), c) => text.push(c),
            (None, '"') => literal = Some(String::new()),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
        if depth == 0 {
            break;
        }
    }
    last
}

fn with_holes(literal: &str) -> String {
    let mut parts = literal.split('{');
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        text.push(HOLE);
        text += part.split_once('}').map_or("", |(_, rest)| rest);
    }
    text
}

/// What the page explains: the code in the first cell of each row below that heading. One entry may be the beginning of several messages.
fn entries(heading: &str) -> Vec<&'static str> {
    let (_, section) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.map(|row| row.split(" | ").next().unwrap());
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).collect::<Vec<_>>())
        .collect()
}

#[test]
fn every_warn_and_error_has_its_entry_and_every_entry_its_message() {
    let sources = files(&root().join("src"), "rs");
    let messages: Vec<_> = sources
        .iter()
        .flat_map(|file| {
            messages(&fs::read_to_string(file).unwrap())
                .into_iter()
                .map(move |message| (file, message))
        })
        .collect();
    // What a command ends with is any error's text; else no message is a hole alone, which nothing could be found by.
    let (holes, messages): (Vec<_>, Vec<_>) = messages
        .into_iter()
        .partition(|(_, message)| *message == HOLE.to_string());
    assert_eq!(holes.len(), 1, "write the message where it is logged: {holes:#?}");
    let entries = entries("By log line");
    assert!(
        messages.len() > 50 && entries.len() > 20,
        "{} {}",
        messages.len(),
        entries.len()
    );
    let missing: Vec<_> = messages
        .iter()
        .filter(|(_, message)| !entries.iter().any(|entry| message.starts_with(entry)))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/troubleshoot.md, By log line, lacks: {missing:#?}"
    );
    let stale: Vec<_> = entries
        .iter()
        .filter(|entry| !messages.iter().any(|(_, message)| message.starts_with(**entry)))
        .collect();
    assert!(
        stale.is_empty(),
        "docs/troubleshoot.md explains what nothing logs: {stale:#?}"
    );
    let short: Vec<_> = entries.iter().filter(|entry| entry.chars().count() < 15).collect();
    assert!(short.is_empty(), "too short to tell messages apart: {short:#?}");
}

/// Of other texts it explains some. They are there.
#[test]
fn reasons_and_last_words_are_those_of_the_code() {
    let sources = files(&root().join("src"), "rs");
    let sources: String = sources.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let entries = [entries("What a command ends with"), entries("Why an attempt failed")].concat();
    assert!(entries.len() > 15, "{entries:#?}");
    let parts = entries.iter().flat_map(|entry| entry.split(HOLE));
    let stale: Vec<_> = parts.filter(|part| !sources.contains(part)).collect();
    assert!(
        stale.is_empty(),
        "docs/troubleshoot.md explains what nothing says: {stale:#?}"
    );
}

#[test]
fn messages_are_found_however_a_line_is_written() {
    for (source, found) in [
        (r#"warn!("it failed");"#, vec!["it failed"]),
        (
            r#"tracing::error!(%error, key = name("x"), "it failed to {what} in {} s", pause.as_secs());"#,
            vec!["it failed to … in … s"],
        ),
        (
            "warn!(\n    error = f(a, \"text\"),\n    \"a \\\"quoted\\\" one\"\n);",
            vec!["a \"quoted\" one"],
        ),
        (
            "line!(\n    error,\n    delivery,\n    \"dead letter\"\n); line!(info, delivery, \"well\");",
            vec!["dead letter"],
        ),
        (
            r#"line!(warn, delivery, reason = %failure.reason, "attempt failed");"#,
            vec!["attempt failed"],
        ),
        (
            r#"info!("all is well"); my_warn!("no"); error!("{error:#}");"#,
            vec!["…"],
        ),
        (
            "warn!(\"one\");\n#[cfg(test)]\nmod tests { warn!(\"two\"); }",
            vec!["one"],
        ),
    ] {
        assert_eq!(messages(source), found, "{source}");
    }
}
