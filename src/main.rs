//! certhookd: see the library's documentation.

fn main() {}
