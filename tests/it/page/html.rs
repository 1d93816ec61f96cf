//! HTML as the page writes it, taken apart: every element closed, every value quoted. What does not fit that is a fault of the page.

/// A piece of a document.
#[derive(Debug, PartialEq)]
pub enum Piece {
    Open(String, Vec<(String, String)>),
    Close(String),
    Text(String),
}

/// Elements that have no end.
const VOID: [&str; 3] = ["meta", "link", "input"];

/// The elements that the pages have of their own.
const ELEMENTS: [&str; 39] = [
    "html",
    "head",
    "meta",
    "title",
    "link",
    "body",
    "header",
    "main",
    "section",
    "h1",
    "h2",
    "p",
    "small",
    "ul",
    "li",
    "b",
    "span",
    "figure",
    "figcaption",
    "svg",
    "g",
    "path",
    "rect",
    "div",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "bdi",
    "code",
    "dl",
    "dt",
    "dd",
    "a",
    "form",
    "input",
    "button",
];

/// Takes it apart.
pub fn parse(page: &str) -> Vec<Piece> {
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let (mut pieces, mut open) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (text, tag) = rest.split_once('<').unwrap_or((rest, ""));
        pieces.extend((!text.trim().is_empty()).then(|| Piece::Text(unescape(text.trim()))));
        let Some((inside, after)) = tag.split_once('>') else {
            break;
        };
        rest = after;
        if let Some(name) = inside.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed: {inside}");
            pieces.push(Piece::Close(name.to_owned()));
            continue;
        }
        let (name, attributes) = inside.split_once(' ').unwrap_or((inside, ""));
        pieces.push(Piece::Open(name.to_owned(), attributes_of(attributes)));
        if !VOID.contains(&name) {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    pieces
}

fn attributes_of(text: &str) -> Vec<(String, String)> {
    let (mut rest, mut attributes) = (text.trim(), Vec::new());
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no value: {text}"));
        let (value, after) = after.split_once('"').unwrap();
        attributes.push((name.trim().to_owned(), unescape(value)));
        rest = after.trim();
    }
    attributes
}

fn unescape(text: &str) -> String {
    let marks = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#x27;", "'"),
        ("&#x2f;", "/"),
        ("&amp;", "&"),
    ];
    marks
        .iter()
        .fold(text.to_owned(), |text, (mark, sign)| text.replace(mark, sign))
}

/// Nothing that somebody else wrote is an element or an attribute, and each link leads to another page of ours.
pub fn harmless(pieces: &[Piece]) {
    for piece in pieces {
        let Piece::Open(name, attributes) = piece else { continue };
        assert!(ELEMENTS.contains(&name.as_str()), "{piece:?}");
        for (attribute, value) in attributes {
            assert!(
                !attribute.starts_with("on") && attribute != "style" && attribute != "src",
                "{piece:?}"
            );
            if attribute == "href" || attribute == "action" {
                assert!(is_ours(value), "{piece:?}");
            }
        }
    }
}

fn is_ours(link: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~%".contains(c);
    let link = link.strip_prefix("../../").unwrap_or(link);
    if matches!(link, "" | "./" | "style.css" | "show") {
        return true;
    }
    let id = ["show?id=", "?pending=", "?dead="]
        .iter()
        .find_map(|start| link.strip_prefix(start));
    match (id, link.strip_prefix("endpoint/").and_then(|link| link.split_once('/'))) {
        (Some(id), _) => id.chars().all(is_plain),
        (None, Some((organization, endpoint))) => organization.chars().chain(endpoint.chars()).all(is_plain),
        (None, None) => !link.is_empty() && link.chars().all(is_plain),
    }
}

/// Where the links of a page lead.
pub fn links(pieces: &[Piece]) -> Vec<String> {
    let link = |piece: &Piece| match piece {
        Piece::Open(name, attributes) if name == "a" => attributes
            .iter()
            .find(|(name, _)| name == "href")
            .map(|(_, link)| link.clone()),
        _ => None,
    };
    pieces.iter().filter_map(link).collect()
}

/// All text of a page.
pub fn text(pieces: &[Piece]) -> String {
    let texts = pieces.iter().filter_map(|piece| match piece {
        Piece::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join(" ")
}

/// The cells of each row of the table below that heading, without their notes in small print.
pub fn table(pieces: &[Piece], heading: &str) -> Vec<Vec<String>> {
    let start = pieces
        .iter()
        .position(|piece| *piece == Piece::Text(heading.to_owned()))
        .unwrap();
    let (mut rows, mut small) = (Vec::<Vec<String>>::new(), false);
    for piece in &pieces[start..] {
        match piece {
            Piece::Close(name) if name == "table" => break,
            Piece::Open(name, _) if name == "tr" => rows.push(Vec::new()),
            Piece::Open(name, _) if name == "td" => rows.last_mut().unwrap().push(String::new()),
            Piece::Open(name, _) if name == "small" => small = true,
            Piece::Close(name) if name == "small" => small = false,
            Piece::Text(text) if !small => {
                if let Some(cell) = rows.last_mut().and_then(|row| row.last_mut()) {
                    cell.push_str(text);
                }
            }
            _ => {}
        }
    }
    rows.retain(|row| !row.is_empty());
    rows
}
