//! How a text may write a character: as it is, or escaped as in URLs, JSON or HTML.

/// The longest escape that is understood, in bytes: the two halves of a character beyond 16 bits, as in `\ud83d\udd11`.
pub(super) const LONGEST_ESCAPE: usize = 12;

/// HTML's names of ASCII characters.
const NAMES: [(&str, char); 38] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("excl", '!'),
    ("num", '#'),
    ("dollar", '$'),
    ("percnt", '%'),
    ("lpar", '('),
    ("rpar", ')'),
    ("ast", '*'),
    ("midast", '*'),
    ("plus", '+'),
    ("comma", ','),
    ("period", '.'),
    ("sol", '/'),
    ("colon", ':'),
    ("semi", ';'),
    ("equals", '='),
    ("quest", '?'),
    ("commat", '@'),
    ("lsqb", '['),
    ("lbrack", '['),
    ("bsol", '\\'),
    ("rsqb", ']'),
    ("rbrack", ']'),
    ("Hat", '^'),
    ("lowbar", '_'),
    ("grave", '`'),
    ("lcub", '{'),
    ("lbrace", '{'),
    ("verbar", '|'),
    ("vert", '|'),
    ("rcub", '}'),
    ("rbrace", '}'),
    ("Tab", '\t'),
    ("NewLine", '\n'),
];

/// What the escape with which `text` begins stands for, and how many bytes it has.
pub(super) fn escaped(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    match text {
        [b'%', high, low, ..] => {
            let byte = hex(&[*high, *low]).and_then(|byte| u8::try_from(byte).ok())?;
            Some((vec![byte], 3))
        }
        [b'+', ..] => Some((vec![b' '], 1)),
        [b'\\', b'u', rest @ ..] => unicode(rest),
        [b'\\', short, ..] => {
            let byte = match short {
                b'"' | b'\'' | b'\\' | b'/' => *short,
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                _ => return None,
            };
            Some((vec![byte], 2))
        }
        [b'&', rest @ ..] => {
            let length = rest.iter().take(LONGEST_ESCAPE - 1).position(|byte| *byte == b';')?;
            let character = reference(std::str::from_utf8(&rest[..length]).ok()?)?;
            Some((character.to_string().into_bytes(), length + 2))
        }
        _ => None,
    }
}

/// Whether a text ends before its next character is complete.
pub(super) fn is_cut_off(rest: &[u8]) -> bool {
    rest.is_empty() || rest.len() < LONGEST_ESCAPE && matches!(rest[0], b'%' | b'\\' | b'&')
}

fn hex(digits: &[u8]) -> Option<u32> {
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
    u32::from_str_radix(digits, 16).ok()
}

/// After `\u`: a character, or the first half of one before another escape with the second.
fn unicode(rest: &[u8]) -> Option<(Vec<u8>, usize)> {
    let unit = |digits: Option<&[u8]>| u16::try_from(hex(digits?)?).ok();
    let first = unit(rest.get(..4))?;
    let second = rest.get(4..6).filter(|escape| *escape == b"\\u");
    let second = second.and_then(|_| unit(rest.get(6..10)));
    let mut characters = char::decode_utf16([first].into_iter().chain(second));
    let character = characters.next()?.ok()?;
    let length = if character.len_utf16() == 2 { 12 } else { 6 };
    Some((character.to_string().into_bytes(), length))
}

/// Between `&` and `;`.
fn reference(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let number = match number.strip_prefix(['x', 'X']) {
            Some(digits) => hex(digits.as_bytes()),
            None => number.parse().ok(),
        };
        return char::from_u32(number?);
    }
    let known = NAMES.iter().find(|(known, _)| *known == name);
    known.map(|(_, character)| *character)
}
