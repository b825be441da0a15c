//! Reads the text of Python literals.
//!
//! The text is that of `repr` for built-in types: numbers, strings, bytes, containers nested at will, `set()`, `frozenset(..)`,
//! `float('inf')`, `complex(..)`, and constant arithmetic such as `2**31 - 1`. What the sandbox sends back may also hold
//! `opaque(1, 'Name')`: an object of no built-in type, of which only the truth value and the class are known.

use super::{LiteralError, Value, nearest_float};
use num_bigint::{BigInt, Sign};

/// Deepest nesting that is read. Deeper text is refused, so that hostile text cannot exhaust the stack.
const MAX_DEPTH: usize = 100;
/// Longest result of a repetition such as `[0] * 1000`, in items; largest power, in bits.
const MAX_SIZE: usize = 10_000_000;

/// Most decimal digits of what the sandbox sends back: reading them takes the square of their number, and Python's side sends long
/// numbers in hexadecimal.
const MAX_DIGITS: usize = 5000;

type Parsed<T> = Result<T, LiteralError>;

impl Value {
    /// Reads a Python literal.
    ///
    /// # Errors
    /// Where the text is no literal, is nested deeper than 100, or stands for something too large.
    pub fn parse(text: &str) -> Result<Self, LiteralError> {
        Parser { text: text.as_bytes(), source: text, at: 0, depth: 0, opaque: false }.whole()
    }

    /// Reads what the sandbox sends back: a literal that may hold opaque objects.
    ///
    /// # Errors
    /// As [`Value::parse`].
    pub fn parse_encoded(text: &str) -> Result<Self, LiteralError> {
        Parser { text: text.as_bytes(), source: text, at: 0, depth: 0, opaque: true }.whole()
    }
}

struct Parser<'a> {
    text: &'a [u8],
    source: &'a str,
    at: usize,
    depth: usize,
    opaque: bool,
}

impl<'a> Parser<'a> {
    fn error<T>(&self, problem: impl Into<String>) -> Parsed<T> {
        Err(LiteralError { at: self.at, problem: problem.into() })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0c => self.at += 1,
                b'#' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.at += 1;
                    }
                }
                b'\\' if self.text.get(self.at + 1) == Some(&b'\n') => self.at += 2,
                _ => break,
            }
        }
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token.as_bytes());
        if found {
            self.at += token.len();
        }
        found
    }

    fn want(&mut self, token: &str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { self.error(format!("expected `{token}`")) }
    }

    fn whole(&mut self) -> Parsed<Value> {
        let (mut items, comma) = self.items_until(None)?;
        self.skip_space();
        if self.at < self.text.len() {
            return self.error("expected the end");
        }
        match items.len() {
            0 => self.error("expected a value, found the end"),
            1 if !comma => Ok(items.remove(0)),
            _ => Ok(Value::Tuple(items)),
        }
    }

    /// Values between commas up to a closing token, or to the end; and whether the last was followed by a comma.
    fn items_until(&mut self, close: Option<&str>) -> Parsed<(Vec<Value>, bool)> {
        let (mut items, mut comma) = (Vec::new(), false);
        loop {
            self.skip_space();
            let done = match close {
                Some(close) => self.take(close),
                None => self.at == self.text.len(),
            };
            if done {
                return Ok((items, comma));
            }
            items.push(self.sum()?);
            comma = self.take(",");
            if !comma {
                if let Some(close) = close {
                    self.want(close)?;
                }
                return Ok((items, false));
            }
        }
    }

    fn sum(&mut self) -> Parsed<Value> {
        let mut left = self.product()?;
        loop {
            let plus = self.take("+");
            if !plus && !self.take("-") {
                return Ok(left);
            }
            let right = self.product()?;
            left = self.add(left, right, plus)?;
        }
    }

    fn product(&mut self) -> Parsed<Value> {
        let mut left = self.signed()?;
        loop {
            self.skip_space();
            let operator = match self.rest() {
                [b'*', b'*', ..] => return Ok(left),
                [b'*', ..] => "*",
                [b'/', b'/', ..] => "//",
                [b'/', ..] => "/",
                [b'%', ..] => "%",
                _ => return Ok(left),
            };
            self.at += operator.len();
            let right = self.signed()?;
            left = self.multiply(&left, &right, operator)?;
        }
    }

    fn signed(&mut self) -> Parsed<Value> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.error(format!("nested deeper than {MAX_DEPTH}"));
        }
        let value = if self.take("-") {
            match self.signed()? {
                Value::Int(value) => Value::Int(-value),
                Value::Bool(value) => Value::Int(BigInt::from(-i8::from(value))),
                Value::Float(value) => Value::Float(-value),
                Value::Complex(re, im) => Value::Complex(-re, -im),
                _ => return self.error("a sign stands before no number"),
            }
        } else if self.take("+") {
            self.signed()?
        } else {
            let base = self.atom()?;
            if self.take("**") {
                let exponent = self.signed()?;
                self.power(&base, &exponent)?
            } else {
                base
            }
        };
        self.depth -= 1;
        Ok(value)
    }

    fn power(&self, base: &Value, exponent: &Value) -> Parsed<Value> {
        if let (Some(base), Some(exponent)) = (base.as_bigint(), exponent.as_bigint()) {
            return match u32::try_from(&exponent) {
                Ok(exponent) if (base.bits() as usize).saturating_mul(exponent as usize) <= MAX_SIZE => {
                    Ok(Value::Int(base.pow(exponent)))
                }
                _ if exponent.sign() == Sign::Minus => {
                    Ok(Value::Float(nearest_float(&base).powf(nearest_float(&exponent))))
                }
                _ => self.error("the power is too large"),
            };
        }
        match (base, exponent, base.as_complex(), exponent.as_complex()) {
            (Value::Complex(..), ..) | (_, Value::Complex(..), ..) => {
                self.error("powers of complex numbers are not read")
            }
            (_, _, Some((base, _)), Some((exponent, _))) => Ok(Value::Float(base.powf(exponent))),
            _ => self.error("a power of no number"),
        }
    }

    fn add(&self, left: Value, right: Value, plus: bool) -> Parsed<Value> {
        let (left, right) = match (left, right) {
            (Value::Str(a), Value::Str(b)) if plus => return Ok(Value::Str(a + &b)),
            (Value::List(mut a), Value::List(b)) if plus => {
                a.extend(b);
                return Ok(Value::List(a));
            }
            (Value::Tuple(mut a), Value::Tuple(b)) if plus => {
                a.extend(b);
                return Ok(Value::Tuple(a));
            }
            other => other,
        };
        if let (Some(a), Some(b)) = (left.as_bigint(), right.as_bigint()) {
            return Ok(Value::Int(if plus { a + b } else { a - b }));
        }
        let complex = matches!(left, Value::Complex(..)) || matches!(right, Value::Complex(..));
        match (left.as_complex(), right.as_complex()) {
            (Some((a, ai)), Some((b, bi))) => {
                let (re, im) = if plus { (a + b, ai + bi) } else { (a - b, ai - bi) };
                Ok(if complex { Value::Complex(re, im) } else { Value::Float(re) })
            }
            _ => self.error("`+` or `-` between values that are no numbers"),
        }
    }

    fn multiply(&self, left: &Value, right: &Value, operator: &str) -> Parsed<Value> {
        if operator == "*" {
            for (sequence, count) in [(left, right), (right, left)] {
                let Some(count) = count.as_bigint() else { continue };
                let count = if count.sign() == Sign::Minus { 0 } else { usize::try_from(&count).unwrap_or(usize::MAX) };
                let fits = |len: usize| len.saturating_mul(count) <= MAX_SIZE;
                match sequence {
                    Value::Str(text) if fits(text.len()) => return Ok(Value::Str(text.repeat(count))),
                    Value::Bytes(bytes) if fits(bytes.len()) => return Ok(Value::Bytes(bytes.repeat(count))),
                    Value::List(items) if fits(items.len()) => return Ok(Value::List(repeated(items, count))),
                    Value::Tuple(items) if fits(items.len()) => return Ok(Value::Tuple(repeated(items, count))),
                    Value::Str(_) | Value::Bytes(_) | Value::List(_) | Value::Tuple(_) => {
                        return self.error("the repetition is too long");
                    }
                    _ => {}
                }
            }
        }
        if let (Some(a), Some(b)) = (left.as_bigint(), right.as_bigint()) {
            return match operator {
                "*" => Ok(Value::Int(a * b)),
                _ if b.sign() == Sign::NoSign => self.error("division by zero"),
                "/" => Ok(Value::Float(nearest_float(&a) / nearest_float(&b))),
                _ => {
                    // Python rounds the quotient down, and the remainder has the divisor's sign.
                    let (mut quotient, mut rest) = (&a / &b, &a % &b);
                    if rest.sign() != Sign::NoSign && rest.sign() != b.sign() {
                        quotient -= 1;
                        rest += b;
                    }
                    Ok(Value::Int(if operator == "//" { quotient } else { rest }))
                }
            };
        }
        match (left, right, left.as_complex(), right.as_complex()) {
            (Value::Complex(..), ..) | (_, Value::Complex(..), ..) => {
                self.error("products of complex numbers are not read")
            }
            (_, _, Some((a, _)), Some((b, _))) => match operator {
                "*" => Ok(Value::Float(a * b)),
                "/" if b != 0.0 => Ok(Value::Float(a / b)),
                _ => self.error(format!("`{operator}` between these numbers is not read")),
            },
            _ => self.error(format!("`{operator}` between values that are no numbers")),
        }
    }

    fn atom(&mut self) -> Parsed<Value> {
        self.skip_space();
        match self.peek() {
            None => self.error("expected a value, found the end"),
            Some(b'[') => {
                self.at += 1;
                Ok(Value::List(self.items_until(Some("]"))?.0))
            }
            Some(b'(') => {
                self.at += 1;
                let (mut items, comma) = self.items_until(Some(")"))?;
                if items.len() == 1 && !comma { Ok(items.remove(0)) } else { Ok(Value::Tuple(items)) }
            }
            Some(b'{') => {
                self.at += 1;
                self.braces()
            }
            Some(b'.') if self.take("...") => Ok(Value::Ellipsis),
            Some(byte) if byte.is_ascii_digit() || byte == b'.' => self.number(),
            Some(_) => match self.strings()? {
                Some(value) => Ok(value),
                None => self.word(),
            },
        }
    }

    fn braces(&mut self) -> Parsed<Value> {
        if self.take("}") {
            return Ok(Value::Dict(Vec::new()));
        }
        let first = self.sum()?;
        if !self.take(":") {
            let mut items = vec![first];
            if self.take(",") {
                items.extend(self.items_until(Some("}"))?.0);
            } else {
                self.want("}")?;
            }
            return Ok(Value::Set(items));
        }
        let mut pairs = vec![(first, self.sum()?)];
        loop {
            if self.take("}") {
                return Ok(Value::Dict(pairs));
            }
            self.want(",")?;
            if self.take("}") {
                return Ok(Value::Dict(pairs));
            }
            let key = self.sum()?;
            self.want(":")?;
            pairs.push((key, self.sum()?));
        }
    }

    /// A name that stands for a value, or the call of a constructor.
    fn word(&mut self) -> Parsed<Value> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.') {
            self.at += 1;
        }
        let word = &self.source[start..self.at];
        match word {
            "None" => return Ok(Value::None),
            "True" => return Ok(Value::Bool(true)),
            "False" => return Ok(Value::Bool(false)),
            "inf" | "math.inf" => return Ok(Value::Float(f64::INFINITY)),
            "nan" | "math.nan" => return Ok(Value::Float(f64::NAN)),
            "float" | "complex" | "set" | "frozenset" | "list" | "tuple" | "dict" => {}
            "opaque" if self.opaque => {}
            _ => {
                self.at = start;
                let shown: String = self.source[start..].chars().take(12).collect();
                return self.error(format!("expected a value, found `{shown}`"));
            }
        }
        self.want("(")?;
        let (mut items, _) = self.items_until(Some(")"))?;
        match (word, items.as_mut_slice()) {
            ("float", [Value::Str(text)]) => match text.trim().to_ascii_lowercase().parse() {
                Ok(value) => return Ok(Value::Float(value)),
                Err(_) => return self.error(format!("`{text}` is no float")),
            },
            ("float", [value]) => {
                if let Some((value, _)) = value.as_complex() {
                    return Ok(Value::Float(value));
                }
            }
            ("complex", [re, im]) => {
                if let (Some((re, _)), Some((im, _))) = (re.as_complex(), im.as_complex()) {
                    return Ok(Value::Complex(re, im));
                }
            }
            ("opaque", [Value::Int(truth), Value::Str(class)]) => {
                return Ok(Value::Opaque { truthy: truth.sign() != Sign::NoSign, class: std::mem::take(class) });
            }
            ("set", []) => return Ok(Value::Set(Vec::new())),
            ("frozenset", []) => return Ok(Value::FrozenSet(Vec::new())),
            ("list", []) => return Ok(Value::List(Vec::new())),
            ("tuple", []) => return Ok(Value::Tuple(Vec::new())),
            ("dict", []) => return Ok(Value::Dict(Vec::new())),
            (_, [Value::List(inner) | Value::Tuple(inner) | Value::Set(inner)]) => {
                let inner = std::mem::take(inner);
                match word {
                    "set" => return Ok(Value::Set(inner)),
                    "frozenset" => return Ok(Value::FrozenSet(inner)),
                    "list" => return Ok(Value::List(inner)),
                    "tuple" => return Ok(Value::Tuple(inner)),
                    _ => {}
                }
            }
            _ => {}
        }
        self.error(format!("`{word}` of these values is not read"))
    }

    fn digits(&mut self, radix: u32) -> String {
        let from = self.at;
        while self.peek().is_some_and(|byte| char::from(byte).is_digit(radix) || byte == b'_') {
            self.at += 1;
        }
        self.source[from..self.at].replace('_', "")
    }

    fn number(&mut self) -> Parsed<Value> {
        if let [b'0', mark, ..] = self.rest() {
            let radix = match mark {
                b'x' | b'X' => 16,
                b'o' | b'O' => 8,
                b'b' | b'B' => 2,
                _ => 10,
            };
            if radix != 10 {
                self.at += 2;
                let text = self.digits(radix);
                return match BigInt::parse_bytes(text.as_bytes(), radix) {
                    Some(value) => Ok(Value::Int(value)),
                    None => self.error("expected digits"),
                };
            }
        }
        let mut text = self.digits(10);
        if self.opaque && text.len() > MAX_DIGITS {
            return self.error("a whole number of this length is written in hexadecimal");
        }
        let mut float = false;
        if self.peek() == Some(b'.') {
            float = true;
            self.at += 1;
            text.push('.');
            text += &self.digits(10);
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            let mark = self.at;
            self.at += 1;
            let negative = self.peek() == Some(b'-');
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            let exponent = self.digits(10);
            if exponent.is_empty() {
                self.at = mark;
            } else {
                float = true;
                text += if negative { "e-" } else { "e" };
                text += &exponent;
            }
        }
        let imaginary = matches!(self.peek(), Some(b'j' | b'J'));
        if imaginary {
            self.at += 1;
        }
        let read = match (float || imaginary, text.parse::<f64>()) {
            (true, Ok(value)) if imaginary => Some(Value::Complex(0.0, value)),
            (true, Ok(value)) => Some(Value::Float(value)),
            (true, Err(_)) => None,
            (false, _) => BigInt::parse_bytes(text.as_bytes(), 10).map(Value::Int),
        };
        match read {
            Some(value) => Ok(value),
            None => self.error(format!("`{text}` is no number")),
        }
    }

    /// One or more adjacent strings, joined; none where no string starts here.
    fn strings(&mut self) -> Parsed<Option<Value>> {
        let mut joined: Option<Value> = None;
        loop {
            self.skip_space();
            let letters = self.rest().iter().take(2).take_while(|byte| b"rRbBuU".contains(byte)).count();
            let quote = self.at + letters;
            if !matches!(self.text.get(quote), Some(b'\'' | b'"')) {
                return Ok(joined);
            }
            let prefix = &self.source[self.at..quote];
            let (raw, bytes) = (prefix.contains(['r', 'R']), prefix.contains(['b', 'B']));
            self.at = quote;
            let part = self.string_body(raw, bytes)?;
            joined = Some(match (joined, part) {
                (None, part) => part,
                (Some(Value::Str(a)), Value::Str(b)) => Value::Str(a + &b),
                (Some(Value::Bytes(mut a)), Value::Bytes(b)) => {
                    a.extend(b);
                    Value::Bytes(a)
                }
                _ => return self.error("a string next to bytes"),
            });
        }
    }

    fn next_char(&mut self) -> Parsed<char> {
        let Some(next) = self.source[self.at..].chars().next() else { return self.error("a string that does not end") };
        self.at += next.len_utf8();
        Ok(next)
    }

    fn string_body(&mut self, raw: bool, bytes: bool) -> Parsed<Value> {
        let quote = self.text[self.at];
        let triple = self.rest().starts_with(&[quote; 3]);
        let width = if triple { 3 } else { 1 };
        self.at += width;
        let mut text = String::new();
        loop {
            if self.rest().starts_with(&[quote; 3][..width]) {
                self.at += width;
                break;
            }
            match self.next_char()? {
                '\n' if !triple => return self.error("a string that does not end on its line"),
                '\\' => {
                    let escaped = self.next_char()?;
                    if raw {
                        text.push('\\');
                        text.push(escaped);
                    } else {
                        self.escape(escaped, bytes, &mut text)?;
                    }
                }
                plain => text.push(plain),
            }
        }
        if !bytes {
            return Ok(Value::Str(text));
        }
        match text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect() {
            Some(bytes) => Ok(Value::Bytes(bytes)),
            None => self.error("bytes hold a character that is no byte"),
        }
    }

    fn escape(&mut self, escaped: char, bytes: bool, text: &mut String) -> Parsed<()> {
        let meant = match escaped {
            '\n' => return Ok(()),
            '\\' | '\'' | '"' => escaped,
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '0'..='7' => {
                let mut code = u32::from(escaped) - u32::from('0');
                for _ in 0..2 {
                    if let Some(digit @ b'0'..=b'7') = self.peek() {
                        code = code * 8 + u32::from(digit - b'0');
                        self.at += 1;
                    } else {
                        break;
                    }
                }
                char::from_u32(code).unwrap_or('\u{fffd}')
            }
            'x' => self.hex(2)?,
            'u' if !bytes => self.hex(4)?,
            'U' if !bytes => self.hex(8)?,
            'N' if !bytes => return self.error("characters by name are not read"),
            _ => {
                text.push('\\');
                escaped
            }
        };
        text.push(meant);
        Ok(())
    }

    fn hex(&mut self, digits: usize) -> Parsed<char> {
        let code = self.source.get(self.at..self.at + digits).and_then(|text| u32::from_str_radix(text, 16).ok());
        let Some(code) = code else { return self.error("expected hex digits") };
        self.at += digits;
        // A lone surrogate is a character in Python and none in Rust.
        let code = if (0xd800..0xe000).contains(&code) { code - 0xd800 + 0x0010_f000 } else { code };
        match char::from_u32(code) {
            Some(found) => Ok(found),
            None => self.error("expected a character's code"),
        }
    }
}

/// A sequence `count` times over.
fn repeated(items: &[Value], count: usize) -> Vec<Value> {
    let count = if items.is_empty() { 0 } else { count };
    std::iter::repeat_n(items, count).flatten().cloned().collect()
}
