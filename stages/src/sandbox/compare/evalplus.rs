//! The comparator `evalplus`: what EvalPlus 0.3.1 takes for the expected value, <https://github.com/evalplus/evalplus>.
//!
//! A value that Python's `==` takes is right. Else it may still be close, where there is a tolerance: that of the case, or 1e-6 where
//! the case has none and a float is expected, or a list or tuple of floats only. Once a case got that one, all cases behind it
//! have it too, whatever they expect. The value then has to be of the very type of the expected one and, as a list or tuple, of
//! its length, and every number must be within `tolerance + 1e-7 * abs(expected)` of the expected one, as `NumPy`'s `allclose` has
//! it: infinities equal themselves, NaN equals nothing.
//!
//! Two things are otherwise than there. Nested lists have to be of one shape: `NumPy` would stretch an inner list of length 1. And
//! base and added tests, which are two lists there, are one here where both are judged: a tolerance stays from one to the other.

use crate::code::literal::{LiteralError, Value};

/// Tolerance relative to the expected number.
const RELATIVE: f64 = 1e-7;
/// Absolute tolerance where floats are expected and the case says nothing.
const OF_FLOATS: f64 = 1e-6;

/// Whether `found` is the expected value. `after_floats` says whether a case before this one expects floats; asked where it matters only.
pub(super) fn accepts(
    expected: &Value,
    found: &Value,
    tolerance: Option<f64>,
    after_floats: impl Fn() -> bool,
) -> bool {
    if expected.py_eq(found) {
        return true;
    }
    let given = tolerance.filter(|&tolerance| tolerance != 0.0);
    let same_type = std::mem::discriminant(expected) == std::mem::discriminant(found);
    same_type
        && all_close(expected, found, given.unwrap_or(OF_FLOATS), false)
        && (given.is_some() || are_floats(expected) || after_floats())
}

/// A float, or a list or tuple of floats and nothing else.
pub(super) fn are_floats(value: &Value) -> bool {
    match value {
        Value::Float(_) => true,
        Value::List(items) | Value::Tuple(items) => {
            !items.is_empty() && items.iter().all(|item| matches!(item, Value::Float(_)))
        }
        _ => false,
    }
}

/// Numbers, or rows of numbers, of one shape and close.
fn all_close(expected: &Value, found: &Value, tolerance: f64, is_in_row: bool) -> bool {
    match (expected, found) {
        (Value::List(a) | Value::Tuple(a), Value::List(b) | Value::Tuple(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| all_close(a, b, tolerance, true))
        }
        _ => match (number(expected, is_in_row), number(found, is_in_row)) {
            (Some((re, im)), Some((found_re, found_im))) => {
                let size = re.hypot(im);
                (re == found_re && im == found_im)
                    || (size.is_finite() && (re - found_re).hypot(im - found_im) <= tolerance + RELATIVE * size)
            }
            _ => false,
        },
    }
}

/// A number as `NumPy` computes with it: an `int` has to be in the range of floats, and of 64 bits where it stands in a row.
fn number(value: &Value, is_in_row: bool) -> Option<(f64, f64)> {
    match value {
        Value::Int(whole) => {
            let fits = !is_in_row || i64::try_from(whole).is_ok() || u64::try_from(whole).is_ok();
            value.as_complex().filter(|(float, _)| float.is_finite() && fits)
        }
        _ => value.as_complex(),
    }
}

/// Whether a value is a root of the polynomial whose coefficients, the constant first, are the first argument of `input`:
/// the polynomial there is at most `tolerance` from zero. Terms are computed and added as in Python up to 3.11.
///
/// # Errors
/// Where the arguments are no Python literal.
pub(super) fn is_root(input: &str, found: &Value, tolerance: f64) -> Result<bool, LiteralError> {
    let arguments = Value::parse(input)?;
    let (Value::List(coefficients) | Value::Tuple(coefficients)) = (match &arguments {
        Value::Tuple(arguments) => arguments.first().unwrap_or(&Value::None),
        other => other,
    }) else {
        return Err(LiteralError { at: 0, problem: "expected a list of coefficients as the first argument".into() });
    };
    let Some((x, 0.0)) = found.as_complex().filter(|_| !matches!(found, Value::Complex(..))) else { return Ok(false) };
    let mut sum = 0.0;
    for (power, coefficient) in coefficients.iter().enumerate() {
        let Some((coefficient, 0.0)) = coefficient.as_complex() else {
            return Err(LiteralError { at: 0, problem: "expected coefficients that are numbers".into() });
        };
        sum += coefficient * x.powf(power as f64);
    }
    Ok(f64::abs(sum) <= tolerance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Each row was put to the rule of EvalPlus 0.3.1 under `NumPy` 2.4.
    #[test]
    fn values_are_close_as_evalplus_has_it() {
        for (expected, found, tolerance, accepted) in [
            ("1.0", "1.0000005", None, true),
            ("1.0", "1.000002", None, false),
            ("1.0", "1", None, true),
            ("1", "1.0", None, true),
            ("True", "1", None, true),
            ("1", "1.0000001", None, false),
            ("1", "1.0000001", Some(1e-6), false),
            ("2.5", "True", Some(9.0), false),
            ("1.0", "1.05", Some(0.1), true),
            ("1.0", "1.05", Some(0.0), false),
            ("[1.0, 2.0]", "[1.0000005, 2.0]", None, true),
            ("[1.0, 2.0]", "(1.0000005, 2.0)", None, false),
            ("(1.0, 2.0)", "(1.0, 1.9999995)", None, true),
            ("[1.0, 2]", "[1.0000005, 2]", None, false),
            ("[1.0, 2]", "[1.0000005, 2]", Some(1e-6), true),
            ("[1.0, 2.0]", "[1.0, 2.0, 3.0]", None, false),
            ("[1.0, 2.0]", "[1.0000005, True]", None, false),
            ("[1.0, 1.0]", "[1.0000005, True]", None, true),
            ("[[1.0], [2.0]]", "[[1.0000005], [2.0]]", None, false),
            ("[[1.0], [2.0]]", "[[1.0000005], [2.0]]", Some(1e-6), true),
            ("[1.0, 'a']", "[1.0000005, 'a']", Some(1e-6), false),
            ("{'a': 1.0}", "{'a': 1.0000005}", Some(1e-6), false),
            ("1e10", "1e10 + 900", None, true),
            ("1e10", "1e10 + 1100", None, false),
            ("float('inf')", "float('inf')", None, true),
            ("float('inf')", "1e308", None, false),
            ("[float('inf'), 1.0]", "[float('inf'), 1.0000005]", None, true),
            ("float('nan')", "float('nan')", None, false),
            ("1+1j", "1.0000005+1j", Some(1e-6), true),
            ("10**30", "10**30 + 1", Some(1e-6), true),
            ("10**400", "10**400 + 1", Some(1e-6), false),
            ("[10**30]", "[10**30 + 1]", Some(1e-6), false),
            ("[2**63, 1.0]", "[2**63 + 5, 1.0]", Some(1e-6), true),
            ("None", "0.0", Some(1.0), false),
            ("'a'", "'b'", Some(1.0), false),
            ("[]", "()", Some(1.0), false),
        ] {
            assert_eq!(
                accepts(&value(expected), &value(found), tolerance, || false),
                accepted,
                "{expected} {found} {tolerance:?}"
            );
        }
        let liar = Value::parse_encoded("<opaque 1 Liar>").expect("readable");
        assert!(!accepts(&value("1.0"), &liar, Some(1e9), || true));
        assert!(accepts(&value("[1.0, 2]"), &value("[1.0000005, 2]"), None, || true));
        assert!(!accepts(&value("[1.0, 2]"), &value("[1.00001, 2]"), None, || true));
    }

    #[test]
    fn a_root_makes_the_polynomial_vanish() {
        for (input, found, accepted) in [
            ("([1, 2],)", "-0.5", true),
            ("([1, 2],)", "-0.50004", true),
            ("([1, 2],)", "-0.5001", false),
            ("([-6, 11, -6, 1],)", "3", true),
            ("([-6, 11, -6, 1],)", "True", true),
            ("([-6, 11, -6, 1],)", "4", false),
            ("([1, 2],)", "'-0.5'", false),
            ("([1, 2],)", "None", false),
            ("([1, 2],)", "-0.5+0j", false),
            ("([1, 2],)", "float('nan')", false),
            ("([1, 2],)", "1e400", false),
        ] {
            assert_eq!(is_root(input, &value(found), 1e-4), Ok(accepted), "{input} {found}");
        }
        assert!(is_root("(3,)", &value("1"), 1e-4).is_err());
        assert!(is_root("(['a'],)", &value("1"), 1e-4).is_err());
    }
}
