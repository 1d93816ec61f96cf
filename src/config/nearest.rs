//! What a misspelt name probably meant.

use super::schema::keys;

/// The candidate whose `name_of` is nearest to `word`, if one is near enough to be meant: a third of its letters may be
/// wrong. The first of equals.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
    name_of: impl Fn(&'a str) -> &'a str,
) -> Option<&'a str> {
    let tolerated = (word.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::osa_distance(word, name_of(candidate)), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The key whose name in its section is nearest to `name`, in whatever section: it may have been put in a wrong one.
pub(super) fn nearest_key(name: &str) -> Option<&'static str> {
    nearest(name, keys(), |key| key.split_once('.').map_or(key, |(_, name)| name))
}
