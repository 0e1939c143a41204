//! Results on stdout, in the form asked for.

use std::io::Write;

use serde::Serialize;

use crate::cli::Output;
use crate::code::Code;
use crate::failure::Failure;

/// Prints `result` as JSON, or the rows that `rows` makes of it as an aligned table.
pub(crate) fn print<T: Serialize>(
    form: Output,
    result: &T,
    rows: impl FnOnce(&T) -> Vec<Vec<String>>,
) -> Result<(), Failure> {
    let text = match form {
        Output::Json => {
            let json = serde_json::to_string_pretty(result)
                .map_err(|error| Failure::new(Code::Bug, format!("no JSON: {error}")))?;
            json + "\n"
        }
        Output::Table => table(&rows(result)),
    };
    print_text(&text)
}

/// Prints `text`. A reader that has gone away (`| head`) is not a failure.
pub(crate) fn print_text(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Publish, format!("stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Columns two spaces apart, the last one ragged.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        })
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let fill = widths[column] - cell.chars().count() + 2;
                text.extend(std::iter::repeat_n(' ', fill));
            }
        }
        text.push('\n');
    }
    text
}

/// A row of cells.
pub(crate) fn row<const N: usize>(cells: [&dyn ToString; N]) -> Vec<String> {
    cells.map(ToString::to_string).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [row([&"name", &"bytes"]), row([&"a", &12]), row([&"größer", &3])];
        assert_eq!(table(&rows), "name    bytes\na       12\ngrößer  3\n");
    }
}
