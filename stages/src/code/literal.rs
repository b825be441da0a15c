//! Python values as data: what a test expects, and what a program returned, compared in Rust.
//!
//! Two values are equal as Python's `==` has it ([`Value::py_eq`]), or of equal value and exact type ([`Value::exactly_eq`]).
//! Literal text is read by [`Value::parse`] in `literal_parser.rs`.

#[path = "literal_parser.rs"]
mod parser;

use num_bigint::{BigInt, Sign};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A Python value of exact built-in types.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An `int` of any size.
    Int(BigInt),
    /// A `float`.
    Float(f64),
    /// A `complex`: real part, imaginary part.
    Complex(f64, f64),
    /// A `str`. Lone surrogates, which no Rust string can hold, are kept as private characters from U+10F000 on.
    Str(String),
    /// A `bytes`.
    Bytes(Vec<u8>),
    /// A `list`.
    List(Vec<Value>),
    /// A `tuple`.
    Tuple(Vec<Value>),
    /// A `set`.
    Set(Vec<Value>),
    /// A `frozenset`.
    FrozenSet(Vec<Value>),
    /// A `dict`; of equal keys the last counts.
    Dict(Vec<(Value, Value)>),
    /// `...`.
    Ellipsis,
    /// An object of any other type.
    Opaque {
        /// `bool(object)`.
        truthy: bool,
        /// The name of its class.
        class: String,
    },
}

/// Text that is no Python literal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a Python literal at byte {at}: {problem}")]
pub struct LiteralError {
    /// Where, in bytes from the start.
    pub at: usize,
    /// What was expected and found.
    pub problem: String,
}

impl Value {
    /// `bool(value)`.
    pub fn is_truthy(&self) -> bool {
        match self {
            Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => value.sign() != Sign::NoSign,
            Self::Float(value) => *value != 0.0,
            Self::Complex(re, im) => *re != 0.0 || *im != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::Bytes(bytes) => !bytes.is_empty(),
            Self::List(items) | Self::Tuple(items) | Self::Set(items) | Self::FrozenSet(items) => !items.is_empty(),
            Self::Dict(pairs) => !pairs.is_empty(),
            Self::Ellipsis => true,
            Self::Opaque { truthy, .. } => *truthy,
        }
    }

    /// Python's `==` over plain values: `1 == True == 1.0`, a list is no tuple, a set equals a frozenset, NaN equals nothing,
    /// and neither does an opaque object.
    pub fn py_eq(&self, other: &Self) -> bool {
        let (mut a, mut b) = (String::new(), String::new());
        self.canonical(&mut a, true) && other.canonical(&mut b, true) && a == b
    }

    /// Equality of values and of exact types: `1` is neither `True` nor `1.0`; NaN equals NaN.
    pub fn exactly_eq(&self, other: &Self) -> bool {
        let (mut a, mut b) = (String::new(), String::new());
        self.canonical(&mut a, false) && other.canonical(&mut b, false) && a == b
    }

    /// `abs(self - other) < tolerance`; false where either is no number.
    pub fn is_close(&self, other: &Self, tolerance: f64) -> bool {
        if let (Some(a), Some(b)) = (self.as_bigint(), other.as_bigint()) {
            return nearest_float(&(a - b)).abs() < tolerance;
        }
        match (self.as_complex(), other.as_complex()) {
            (Some((a, b)), Some((c, d))) => (a - c).hypot(b - d) < tolerance,
            _ => false,
        }
    }

    /// The integer that an `int` or a `bool` is.
    fn as_bigint(&self) -> Option<BigInt> {
        match self {
            Self::Bool(value) => Some(BigInt::from(u8::from(*value))),
            Self::Int(value) => Some(value.clone()),
            _ => None,
        }
    }

    /// Real and imaginary part of a number; the nearest floats of an `int`.
    pub(crate) fn as_complex(&self) -> Option<(f64, f64)> {
        match self {
            Self::Float(value) => Some((*value, 0.0)),
            Self::Complex(re, im) => Some((*re, *im)),
            _ => self.as_bigint().map(|value| (nearest_float(&value), 0.0)),
        }
    }

    /// Writes a text that two values share exactly if they are equal. Returns false for a value that equals nothing.
    fn canonical(&self, out: &mut String, loose: bool) -> bool {
        match self {
            Self::None => out.push('N'),
            Self::Ellipsis => out.push('E'),
            Self::Opaque { .. } => return false,
            Self::Bool(value) if loose => write_int(out, &BigInt::from(u8::from(*value))),
            Self::Bool(value) => out.push(if *value { 'T' } else { 'F' }),
            Self::Int(value) => write_int(out, value),
            Self::Float(value) => return write_float(out, *value, loose),
            Self::Complex(re, im) if loose && *im == 0.0 => return write_float(out, *re, true),
            Self::Complex(re, im) => {
                out.push('c');
                let real = write_float(out, *re, loose);
                out.push(',');
                return real && write_float(out, *im, loose);
            }
            Self::Str(text) => {
                let _ = write!(out, "s{}:{text}", text.len());
            }
            Self::Bytes(bytes) => {
                let _ = write!(out, "b{}:", bytes.len());
                out.extend(bytes.iter().map(|&byte| char::from(byte)));
            }
            Self::List(items) | Self::Tuple(items) => {
                out.push(if matches!(self, Self::List(_)) { '[' } else { '(' });
                for item in items {
                    if !item.canonical(out, loose) {
                        return false;
                    }
                    out.push(',');
                }
                out.push(']');
            }
            Self::Set(items) | Self::FrozenSet(items) => {
                let mut texts = BTreeSet::new();
                for item in items {
                    let mut text = String::new();
                    if !item.canonical(&mut text, loose) {
                        return false;
                    }
                    texts.insert(text);
                }
                out.push_str(if loose || matches!(self, Self::Set(_)) { "{" } else { "f{" });
                for text in texts {
                    let _ = write!(out, "{}:{text}", text.len());
                }
                out.push('}');
            }
            Self::Dict(pairs) => {
                let mut texts = BTreeMap::new();
                for (key, value) in pairs {
                    let (mut k, mut v) = (String::new(), String::new());
                    if !key.canonical(&mut k, loose) || !value.canonical(&mut v, loose) {
                        return false;
                    }
                    texts.insert(k, v);
                }
                out.push_str("d{");
                for (k, v) in texts {
                    let _ = write!(out, "{}:{k}{}:{v}", k.len(), v.len());
                }
                out.push('}');
            }
        }
        true
    }
}

fn write_int(out: &mut String, value: &BigInt) {
    let _ = write!(out, "i{}", value.to_str_radix(16));
}

fn write_float(out: &mut String, value: f64, loose: bool) -> bool {
    if loose && value.is_nan() {
        return false;
    }
    match integer_of(value) {
        Some(whole) if loose => write_int(out, &whole),
        _ if value.is_nan() => out.push_str("xnan"),
        _ => {
            let _ = write!(out, "x{:x}", value.to_bits());
        }
    }
    true
}

/// The integer that a float is, if it is one.
fn integer_of(value: f64) -> Option<BigInt> {
    if !value.is_finite() || value.fract() != 0.0 {
        return None;
    }
    if value == 0.0 {
        return Some(BigInt::ZERO);
    }
    let bits = value.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1075;
    let mantissa = BigInt::from((bits & ((1 << 52) - 1)) | (1 << 52));
    let magnitude = if exponent >= 0 { mantissa << exponent as usize } else { mantissa >> (-exponent) as usize };
    Some(if value < 0.0 { -magnitude } else { magnitude })
}

/// The nearest float; infinite beyond the range.
fn nearest_float(value: &BigInt) -> f64 {
    value.to_string().parse().unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::Value;

    fn value(text: &str) -> Value {
        Value::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn equality_is_that_of_python() {
        for (a, b) in [
            ("1", "True"),
            ("1", "1.0"),
            ("0.0", "-0.0"),
            ("1+0j", "1"),
            ("2**100", "1267650600228229401496703205376.0"),
            ("{1, 2, 2}", "frozenset([2, 1])"),
            ("{'a': 1, 'b': [2]}", "{'b': [2.0], 'a': True}"),
            ("{1: 'a', True: 'b'}", "{1: 'b'}"),
            ("'a' 'b'", r#""ab""#),
            (r"'\x41\u00e9\n\101'", "'A\u{e9}\\nA'"),
            ("(1, 2)", "1, 2"),
            ("[0] * 3", "[0, 0, 0]"),
            ("2**31 - 1", "2147483647"),
            ("-7 // 2", "-4"),
            ("-7 % 3", "2"),
            ("-2**2", "-4"),
            ("float('-inf')", "-float('inf')"),
            ("0xff", "255"),
            ("1_000", "1e3"),
            (".5", "1 / 2"),
            ("()", "tuple()"),
            ("(\n1,\n)", "1,"),
            ("'''a\n'b'''", r#""a\n'b""#),
            (r"r'\n'", r"'\\n'"),
            ("b'\\x00a'", r"b'\0a'"),
        ] {
            assert!(value(a).py_eq(&value(b)), "{a} == {b}");
        }
        for (a, b) in [
            ("[1]", "(1,)"),
            ("float('nan')", "float('nan')"),
            ("[float('nan')]", "[float('nan')]"),
            ("'1'", "1"),
            ("b'a'", "'a'"),
            ("None", "False"),
            ("{}", "set()"),
            ("2**53 + 1", "9007199254740992.0"),
            ("['a', 'b']", "['a,b']"),
            ("{(1, 2)}", "{1, 2}"),
        ] {
            assert!(!value(a).py_eq(&value(b)), "{a} != {b}");
        }
    }

    #[test]
    fn exact_equality_tells_types_apart() {
        assert!(value("[1, 'a', float('nan')]").exactly_eq(&value("[1, 'a', float('nan')]")));
        for (a, b) in [("1", "True"), ("1", "1.0"), ("{1}", "frozenset({1})"), ("0.0", "-0.0"), ("1+0j", "1")] {
            assert!(!value(a).exactly_eq(&value(b)), "{a} is not {b}");
        }
    }

    #[test]
    fn opaque_objects_are_truthy_or_not_and_equal_to_nothing() {
        let found = Value::parse_encoded("[opaque(1, 'Match'), 1]").expect("readable");
        assert!(!found.py_eq(&found));
        assert!(Value::parse_encoded("opaque(1, 'Match')").expect("readable").is_truthy());
        assert!(!Value::parse_encoded("opaque(0, 'Liar')").expect("readable").is_truthy());
        assert!(Value::parse("opaque(1, 'Match')").is_err());
    }

    #[test]
    fn closeness_takes_numbers_only() {
        assert!(value("3.14159").is_close(&value("3.1416"), 1e-3));
        assert!(value("10**400").is_close(&value("10**400 + 1"), 1.5));
        assert!(value("1+1j").is_close(&value("1+1.0001j"), 1e-3));
        assert!(!value("1").is_close(&value("2"), 1.0));
        assert!(!value("float('nan')").is_close(&value("1"), 1e9));
        assert!(!value("'1'").is_close(&value("1"), 1e9));
    }

    #[test]
    fn text_that_is_no_literal_is_refused() {
        for text in [
            "",
            "x",
            "f'a'",
            "[1",
            "1 2",
            "[1 2]",
            "{1: 2, 3}",
            "'a",
            "os.system('x')",
            "-'a'",
            "9**9**9",
            "1//0",
            "[,]",
        ] {
            assert!(Value::parse(text).is_err(), "{text}");
        }
        assert!(Value::parse(&"[".repeat(100_000)).is_err());
        assert!(Value::parse(&"-".repeat(100_000)).is_err());
    }
}
