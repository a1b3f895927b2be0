//! Tables and numbers for people.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, ContentArrangement};

/// A table whose first column names things and whose others are figures.
pub struct Table {
    table: comfy_table::Table,
}

impl Table {
    /// A table with these column titles.
    #[must_use]
    pub fn new(titles: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_preset(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(titles.iter().copied().enumerate().map(cell));
        Self { table }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[&str]) {
        self.table.add_row(cells.iter().copied().enumerate().map(cell));
    }
}

fn cell((column, text): (usize, &str)) -> Cell {
    Cell::new(text).set_alignment(if column == 0 { CellAlignment::Left } else { CellAlignment::Right })
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.table.fmt(f)
    }
}

/// Microseconds with a unit that suits: "0.84 us", "1.27 ms", "3.40 s".
#[must_use]
pub fn micros(value: f64) -> String {
    match value {
        _ if value < 1_000.0 => format!("{value:.2} us"),
        _ if value < 1_000_000.0 => format!("{:.2} ms", value / 1e3),
        _ => format!("{:.2} s", value / 1e6),
    }
}

/// Bytes with a decimal unit that suits: "65.54 kB", "1.05 MB".
#[must_use]
pub fn bytes(value: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 1000.0 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{value} B") } else { format!("{scaled:.2} {}", units[unit]) }
}

/// Bytes with the binary unit that they are a whole number of: "64 KiB", "1 MiB", "100 B".
#[must_use]
pub fn binary(value: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| value > 0 && value.trailing_zeros() >= *shift);
    unit.map_or(format!("{value} B"), |(shift, name)| format!("{} {name}", value >> shift))
}

/// A count with thin groups of three digits: "1 234 567".
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_carry_their_units() {
        assert_eq!([0.84, 1270.0, 3_400_000.0].map(micros), ["0.84 us", "1.27 ms", "3.40 s"]);
        assert_eq!([0, 999, 65_536, 1 << 30].map(bytes), ["0 B", "999 B", "65.54 kB", "1.07 GB"]);
        assert_eq!([0, 100, 65_536, 3 << 20].map(binary), ["0 B", "100 B", "64 KiB", "3 MiB"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
    }

    #[test]
    fn figures_stand_to_the_right() {
        let mut table = Table::new(&["what", "figure"]);
        table.row(&["a", "1"]);
        let text = table.to_string();
        assert!(text.contains("what   figure") && text.contains("a           1"), "{text}");
    }
}
