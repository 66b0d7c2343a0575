//! Tables whose columns are as wide as what is in them.

use super::print::{Style, Tone};

/// A cell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// With a tone.
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// See the module. Columns in which nothing stands are left out.
pub(crate) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Without rows.
    pub(crate) fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// As text; empty without rows.
    pub(crate) fn render(&self, style: Style) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let text = |row: &[Cell], i: usize| row.get(i).map(|c| c.text.clone()).unwrap_or_default();
        let used: Vec<usize> =
            (0..self.heads.len()).filter(|i| self.rows.iter().any(|r| !text(r, *i).is_empty())).collect();
        let width = |i: usize| {
            let cells = self.rows.iter().map(|r| text(r, i).chars().count());
            cells.chain(self.heads.get(i).map(|h| h.chars().count())).max().unwrap_or(0)
        };
        let mut out = String::new();
        let mut line = |cells: Vec<(String, Tone)>| {
            let mut line = String::from("  ");
            let last = cells.len().saturating_sub(1);
            for (n, ((text, tone), i)) in cells.into_iter().zip(&used).enumerate() {
                let pad = if n == last { 0 } else { (width(*i) + 2).saturating_sub(text.chars().count()) };
                line.push_str(&style.paint(tone, &text));
                line.extend(std::iter::repeat_n(' ', pad));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        };
        let head = |i: &usize| (self.heads.get(*i).copied().unwrap_or_default().to_owned(), Tone::Dim);
        line(used.iter().map(head).collect());
        for row in &self.rows {
            let cell = |i: &usize| row.get(*i).map(|c| (c.text.clone(), c.tone)).unwrap_or_default();
            line(used.iter().map(cell).collect());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_and_empty_ones_are_left_out() {
        let mut table = Table::new(&["NAME", "EMPTY", "STATE"]);
        table.row(vec!["a".into(), "".into(), "streaming".into()]);
        table.row(vec!["longer".into(), "".into(), Cell::new("down", Tone::Bad)]);
        assert_eq!(table.render(Style::plain()), "  NAME    STATE\n  a       streaming\n  longer  down\n");
        assert_eq!(Table::new(&["NAME"]).render(Style::plain()), "");
    }
}
