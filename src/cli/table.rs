//! Aligned columns for a terminal.

use crate::model::stays_in_line;

/// Prints rows under a header, each column as wide as its widest cell; numbers are aligned to the right. Characters that could break
/// or turn a line are replaced: names come from outside.
pub(super) fn print(header: &[&str], rows: &[Vec<String>]) {
    print_with_notes(header, rows, &[]);
}

/// The same, with a line of its own under each row that has a note.
pub(super) fn print_with_notes(header: &[&str], rows: &[Vec<String>], notes: &[Option<String>]) {
    let clean: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| safe(cell)).collect())
        .collect();
    let width = |column: usize| {
        let cells = clean.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    say!("{}", line(header.iter().map(|cell| (*cell).to_owned()), &widths));
    for (index, row) in clean.into_iter().enumerate() {
        say!("{}", line(row.into_iter(), &widths));
        if let Some(Some(note)) = notes.get(index) {
            say!("  {}", safe(note));
        }
    }
}

fn line(cells: impl Iterator<Item = String>, widths: &[usize]) -> String {
    let padded = cells.zip(widths).map(|(cell, width)| {
        let number = cell.parse::<f64>().is_ok();
        if number {
            format!("{cell:>width$}")
        } else {
            format!("{cell:<width$}")
        }
    });
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn safe(cell: &str) -> String {
    cell.chars().map(|c| if stays_in_line(c) { c } else { ' ' }).collect()
}
