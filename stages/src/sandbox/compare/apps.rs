//! The comparators `apps`: what the published harness of APPS (and of `CodeRL`, which took it over) counts as the expected answer,
//! <https://github.com/hendrycks/apps>. For comparison with published figures only: it takes wrong answers too.
//!
//! An output passes at the first rung that takes it:
//! 1. the whole text, or the text of its lines stripped, equals the expected one, white space around it left off;
//! 2. its lines, then those of them that are not empty, equal the expected lines, which are stripped and not empty;
//! 3. each line is a number, and as far from the expected one as `NumPy`'s `allclose` takes by default (1e-8, and 1e-5 of the expected);
//! 4. the sets of words of its lines are the same set: **order and repetition of words and of lines do not count**;
//! 5. the same over numbers, rounded to three places.

use crate::code::literal::Value;
use std::collections::BTreeSet;

/// Whether `found` is taken for the expected standard output.
pub(super) fn accepts(expected: &str, found: &str) -> bool {
    let lines = split_lines(found);
    let stripped: Vec<&str> = lines.iter().map(|line| strip(line)).collect();
    if strip(&lines.join("\n")) == strip(expected) || strip(&stripped.join("\n")) == strip(expected) {
        return true;
    }
    // A line of white space is not empty, and stays as an empty one.
    let wanted: Vec<&str> = expected.split('\n').filter(|line| !line.is_empty()).map(strip).collect();
    if lines == wanted {
        return true;
    }
    let lines: Vec<&str> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    if lines == wanted || numbers_are_close(&wanted, &lines) {
        return true;
    }
    let lines: Vec<&str> = lines.into_iter().filter(|line| !strip(line).is_empty()).collect();
    sets_of(&wanted, Some) == sets_of(&lines, Some)
        || sets_of(&wanted, rounded).is_some_and(|wanted| sets_of(&lines, rounded) == Some(wanted))
}

/// The value with its tuples as lists, on the outside and one level below: JSON, which the expected values come from, has no tuples.
pub(super) fn with_lists(value: &Value) -> Value {
    let inner = |item: &Value| match item {
        Value::Tuple(items) => Value::List(items.clone()),
        other => other.clone(),
    };
    match value {
        Value::List(items) | Value::Tuple(items) => Value::List(items.iter().map(inner).collect()),
        other => other.clone(),
    }
}

/// White space as Python has it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Lines as `str.splitlines` has them.
fn split_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let is_end =
            |c| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
        let Some((line, end)) = rest.split_once(is_end).map(|(line, _)| (line, &rest[line.len()..])) else {
            lines.push(rest);
            break;
        };
        lines.push(line);
        let width = if end.starts_with("\r\n") { 2 } else { end.chars().next().map_or(1, char::len_utf8) };
        rest = &end[width..];
    }
    lines
}

/// A number as `float` reads it.
fn number(text: &str) -> Option<f64> {
    let text = strip(text);
    if !text.contains('_') {
        return text.parse().ok();
    }
    let is_digit = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let between_digits = text.match_indices('_').all(|(at, _)| at > 0 && is_digit(at - 1) && is_digit(at + 1));
    if between_digits { text.replace('_', "").parse().ok() } else { None }
}

fn numbers_are_close(expected: &[&str], found: &[&str]) -> bool {
    expected.len() == found.len()
        && expected.iter().zip(found).all(|(expected, found)| match (number(expected), number(found)) {
            (Some(expected), Some(found)) => {
                expected == found || (expected.is_finite() && (expected - found).abs() <= 1e-8 + 1e-5 * expected.abs())
            }
            _ => false,
        })
}

/// A number of three places, in a text that equal numbers share. NaN equals nothing.
fn rounded(word: &str) -> Option<String> {
    let number = number(word).filter(|number| !number.is_nan())?;
    let text = format!("{number:.3}");
    Some(if text == "-0.000" { "0.000".into() } else { text })
}

/// The set of the sets of words of some lines; none where a word has no form.
fn sets_of<'a, W: Ord>(lines: &[&'a str], form: impl Fn(&'a str) -> Option<W>) -> Option<BTreeSet<BTreeSet<W>>> {
    lines.iter().map(|line| line.split(is_space).filter(|word| !word.is_empty()).map(&form).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row was put to the published ladder under `NumPy` 2.4.
    #[test]
    fn outputs_pass_at_the_rungs_of_the_published_ladder() {
        for (expected, found, accepted) in [
            ("1\n2\n", "1\n2", true),
            ("1\n2", "  1 \n 2\n\n", true),
            ("a\n\nb", "a\nb", true),
            ("a\nb", "a\n\nb", true),
            ("a b", "a  b", true),
            ("1.00001", "1", true),
            ("1.0001", "1", true),
            ("1.001", "1", false),
            ("1e10", "10000000001", true),
            ("1 2 3", "3 2 1", true),
            ("1 2\n3", "3\n2 1 1\n3", true),
            ("1 2\n3", "1\n2 3", false),
            ("0.12345 x", "0.123 x", false),
            ("0.1234 5", "5 0.1233", true),
            ("0.1236 5", "5 0.1233", false),
            ("-0.0001 1", "0 1", true),
            ("nan", "nan", true),
            ("nan 1", "1.0 nan", false),
            ("", "", true),
            ("", "x", false),
            ("YES", "yes", false),
            ("1_000 2", "2 1000", true),
            ("a\x0cb", "a\nb", false),
        ] {
            assert_eq!(accepts(expected, found), accepted, "{expected:?} {found:?}");
        }
    }

    #[test]
    fn tuples_count_as_lists_on_two_levels() {
        let value = |text: &str| Value::parse(text).expect("a literal");
        assert_eq!(with_lists(&value("((1, 2), [(3,)])")), value("[[1, 2], [(3,)]]"));
        assert_eq!(with_lists(&value("'a'")), value("'a'"));
    }

    #[test]
    fn lines_end_where_python_says() {
        assert_eq!(split_lines("a\r\nb\x0bc\u{2028}\n"), ["a", "b", "c", ""]);
        assert!(split_lines("").is_empty());
    }
}
