//! Comparators: what it means that a program's answer is the expected one. Named, and recorded with every verdict.

mod apps;
mod evalplus;

use crate::code::literal::{LiteralError, Value};
use crate::columns::{Case, Check};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How standard output is compared.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputComparator {
    /// Byte for byte.
    Exact,
    /// Line by line; white space around a line and blank lines at the end do not count.
    #[default]
    Lines,
    /// As LiveCodeBench: line by line, and a line may also match as a row of equal decimal numbers (`1.0` is `1`), without tolerance.
    Lcb,
    /// Word by word; two words that are numbers may differ by `abs`, or by `rel` times the expected one.
    Tokens {
        /// Largest absolute difference.
        abs: f64,
        /// Largest difference relative to the expected number.
        rel: f64,
    },
    /// As the published harness of APPS, for comparison with published figures only: it takes lines and words in any order, and
    /// numbers that are near.
    Apps,
}

/// How a returned value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueComparator {
    /// Python's `==` over plain values: `1 == True == 1.0`.
    #[default]
    PyEq,
    /// Equal value and equal type.
    Exact,
    /// As `EvalPlus` 0.3.1: Python's `==`, else close where the case has a tolerance or floats are expected (1e-6, and 1e-7 of the
    /// expected number) and the type is the expected one.
    Evalplus,
    /// As the published harness of APPS: Python's `==`, where a tuple counts as a list, also inside the outermost one.
    Apps,
}

impl OutputComparator {
    /// The name that is recorded.
    pub fn name(self) -> String {
        match self {
            Self::Exact => "exact".into(),
            Self::Lines => "lines".into(),
            Self::Lcb => "lcb".into(),
            Self::Tokens { abs, rel } => format!("tokens+tol({abs}, {rel})"),
            Self::Apps => "apps".into(),
        }
    }

    /// Whether `found` is the expected output. Bytes that are no UTF-8 are compared by `exact` alone, elsewhere they are replaced.
    pub fn accepts(self, expected: &str, found: &[u8]) -> bool {
        if self == Self::Exact {
            return expected.as_bytes() == found;
        }
        let found = String::from_utf8_lossy(found);
        match self {
            Self::Exact => false,
            Self::Lines => lines(expected) == lines(&found),
            Self::Lcb => {
                let (a, b) = (lines(expected.trim()), lines(found.trim()));
                a.len() == b.len()
                    && a.iter().zip(&b).all(|(a, b)| a == b || decimals(a).is_some_and(|x| decimals(b) == Some(x)))
            }
            Self::Tokens { abs, rel } => {
                let mut found = found.split_whitespace();
                expected.split_whitespace().all(|a| found.next().is_some_and(|b| a == b || close(a, b, abs, rel)))
                    && found.next().is_none()
            }
            Self::Apps => apps::accepts(expected, &found),
        }
    }
}

impl ValueComparator {
    /// The name that is recorded.
    pub fn name(self) -> &'static str {
        match self {
            Self::PyEq => "py_eq",
            Self::Exact => "exact",
            Self::Evalplus => "evalplus",
            Self::Apps => "apps",
        }
    }

    /// Whether the text of a returned value is, letter for letter, the expected one. Then every comparator takes it, and it need not
    /// be read; not so NaN and opaque objects, which equal nothing.
    pub(super) fn is_same_text(case: &Case, text: &str) -> bool {
        case.check == Check::Equal && case.output == text && !text.contains("nan") && !text.contains('<')
    }

    /// Whether `found` answers the case of this number, from 0.
    ///
    /// # Errors
    /// Where the expected value is no Python literal.
    pub fn accepts(self, cases: &[Case], number: usize, found: &Value) -> Result<bool, LiteralError> {
        let case = &cases[number];
        let tolerance = || case.tolerance.unwrap_or(1e-6);
        Ok(match case.check {
            Check::Truthy => found.is_truthy(),
            Check::Falsy => !found.is_truthy(),
            Check::Root => evalplus::is_root(&case.input, found, tolerance())?,
            Check::Close => found.is_close(&Value::parse(&case.output)?, tolerance()),
            Check::Equal => {
                let expected = Value::parse(&case.output)?;
                match self {
                    Self::PyEq => expected.py_eq(found),
                    Self::Exact => expected.exactly_eq(found),
                    Self::Evalplus => evalplus::accepts(&expected, found, case.tolerance, || {
                        let is_float = |case: &Case| Value::parse(&case.output).is_ok_and(|v| evalplus::are_floats(&v));
                        cases[..number].iter().any(is_float)
                    }),
                    Self::Apps => expected.py_eq(found) || expected.py_eq(&apps::with_lists(found)),
                }
            }
        })
    }
}

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    lines
}

fn close(a: &str, b: &str, abs: f64, rel: f64) -> bool {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a == b || (a - b).abs() <= abs.max(rel * a.abs()),
        _ => false,
    }
}

/// The numbers of a line, each as sign, digits without zeros around them, and exponent; none where a word is no number.
fn decimals(line: &str) -> Option<Vec<(bool, String, i64)>> {
    line.split_whitespace().map(decimal).collect()
}

fn decimal(word: &str) -> Option<(bool, String, i64)> {
    let (negative, rest) = match word.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = all.trim_start_matches('0').trim_end_matches('0').to_owned();
    if digits.is_empty() {
        return Some((false, digits, 0));
    }
    let zeros = all.len() - all.trim_end_matches('0').len();
    Some((negative, digits, exponent.checked_sub(fraction.len() as i64)?.checked_add(zeros as i64)?))
}

#[cfg(test)]
mod tests {
    use super::OutputComparator::{Apps, Exact, Lcb, Lines, Tokens};

    #[test]
    fn every_comparator_takes_what_it_says() {
        for (comparator, expected, found, accepted) in [
            (Exact, "1\n", "1\n", true),
            (Exact, "1\n", "1", false),
            (Lines, "1 \n2\n\n", " 1\n2", true),
            (Lines, "1\n2", "1\r\n2\r\n", true),
            (Lines, "1 2", "1  2", false),
            (Lines, "a\n\nb", "a\nb", false),
            (Lines, "", "", true),
            (Lines, "", "x", false),
            (Lcb, "1.0 2", "1 2.00", true),
            (Lcb, "1e3", "1000", true),
            (Lcb, "0.1", "0.10000001", false),
            (Lcb, "-0", "0", true),
            (Lcb, "a 1.0", "a 1", false),
            (Tokens { abs: 1e-6, rel: 0.0 }, "1.0000001\nyes", "1 yes", true),
            (Tokens { abs: 0.0, rel: 0.1 }, "100", "109", true),
            (Tokens { abs: 1e-6, rel: 0.0 }, "1", "1 2", false),
            (Tokens { abs: 1e-6, rel: 0.0 }, "1 2", "1", false),
            (Tokens { abs: 1e-6, rel: 0.0 }, "1", "nan", false),
            (Apps, "1 2", "2 1", true),
        ] {
            assert_eq!(
                comparator.accepts(expected, found.as_bytes()),
                accepted,
                "{comparator:?} {expected:?} {found:?}"
            );
        }
    }
}
