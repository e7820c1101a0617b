//! Columns of text that stand under one another.

/// On which side a column's cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// What stands between two columns.
const GAP: &str = "  ";

/// The least width of a column whose cells may be broken.
const LEAST_FLEXIBLE: usize = 18;

/// A table: rows of cells, with rules across its whole width.
pub(super) struct Grid {
    aligns: Vec<Align>,
    rows: Vec<Row>,
    /// The column whose cells may be broken, and the width that the table should then keep to.
    flexible: Option<(usize, usize)>,
}

enum Row {
    Cells(Vec<String>),
    Rule,
}

impl Grid {
    /// An empty table with as many columns as there are sides.
    pub(super) fn new(aligns: &[Align]) -> Grid {
        Grid { aligns: aligns.to_vec(), rows: Vec::new(), flexible: None }
    }

    /// Lets the cells of a column be broken between words, so that the table is at most `width` characters wide.
    pub(super) fn breaking(mut self, column: usize, width: usize) -> Grid {
        self.flexible = Some((column, width));
        self
    }

    /// Adds a row; cells that are missing at its end are empty.
    pub(super) fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(Row::Cells(cells.into_iter().map(Into::into).collect()));
    }

    /// Adds a line across the table.
    pub(super) fn rule(&mut self) {
        self.rows.push(Row::Rule);
    }

    /// The table as lines, each ending in a newline, none in a blank.
    pub(super) fn render(&self) -> String {
        let mut widths: Vec<usize> = (0..self.aligns.len()).map(|column| self.width(column)).collect();
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        if let Some((column, width)) = self.flexible {
            let others = widths.iter().sum::<usize>() - widths[column] + gaps;
            let room = width.saturating_sub(others).max(LEAST_FLEXIBLE);
            widths[column] = widths[column].min(room);
        }
        let whole = widths.iter().sum::<usize>() + gaps;

        let mut text = String::new();
        for row in &self.rows {
            match row {
                Row::Rule => {
                    text.push_str(&"─".repeat(whole));
                    text.push('\n');
                }
                Row::Cells(cells) => self.render_row(cells, &widths, &mut text),
            }
        }
        text
    }

    /// One row, which takes as many lines as its most broken cell.
    fn render_row(&self, cells: &[String], widths: &[usize], text: &mut String) {
        let broken: Vec<Vec<String>> = cells
            .iter()
            .enumerate()
            .map(|(column, cell)| match self.flexible {
                Some((flexible, _)) if flexible == column => wrap(cell, widths[column]),
                _ => vec![cell.clone()],
            })
            .collect();
        let height = broken.iter().map(Vec::len).max().unwrap_or(1);
        for line in 0..height {
            let parts: Vec<String> = broken
                .iter()
                .zip(&self.aligns)
                .zip(widths)
                .map(|((lines, align), &width)| {
                    let part = lines.get(line).map_or("", String::as_str);
                    match align {
                        Align::Left => format!("{part:<width$}"),
                        Align::Right => format!("{part:>width$}"),
                    }
                })
                .collect();
            text.push_str(parts.join(GAP).trim_end());
            text.push('\n');
        }
    }

    /// The characters of a column's widest cell.
    fn width(&self, column: usize) -> usize {
        self.rows
            .iter()
            .filter_map(|row| match row {
                Row::Cells(cells) => cells.get(column),
                Row::Rule => None,
            })
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    }
}

/// Breaks a text into lines of at most `width` characters; a longer word has a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_one_another() {
        let mut grid = Grid::new(&[Align::Left, Align::Right, Align::Left]);
        grid.row(["site", "values", "note"]);
        grid.rule();
        grid.row(["relu", "2,308,096", ""]);
        grid.row(["12×4b", "7"]);
        assert_eq!(
            grid.render(),
            "site      values  note\n\
             ──────────────────────\n\
             relu   2,308,096\n\
             12×4b          7\n"
        );
    }

    #[test]
    fn words_are_never_broken() {
        let text = "12×4b 20×3b 32×0b";
        assert_eq!(wrap(text, 11), ["12×4b 20×3b", "32×0b"]);
        assert_eq!(wrap(text, 17), [text]);
        assert_eq!(wrap(text, 1), ["12×4b", "20×3b", "32×0b"]);
        assert_eq!(wrap("", 5), [""]);
    }

    #[test]
    fn a_broken_cell_leaves_the_others_on_its_first_line() {
        let mut grid = Grid::new(&[Align::Left, Align::Left, Align::Right]).breaking(1, 28);
        grid.row(["relu", "12×4b 20×3b 32×0b 100×2b", "1.50"]);
        grid.rule();
        assert_eq!(
            grid.render(),
            "relu  12×4b 20×3b 32×0b   1.50\n\
             \u{20}     100×2b\n\
             ──────────────────────────────\n"
        );
    }
}
