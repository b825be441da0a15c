//! Runs a program of the small Python, with Python's semantics: floor division and modulo, negative indices, slices, truth, `repr`.
//!
//! Integers have 64 bits: where Python would go on with larger ones, the run ends in a fault, and whoever wanted the result takes
//! another input. So a result that is given is Python's result; a test runs Python beside it.

use super::python::{BinOp, Builtin, CmpOp, Expr, Method, Module, Stmt};
use std::cell::RefCell;
use std::cmp::Ordering;
use std::fmt::Write;
use std::rc::Rc;

/// A Python value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// `None`.
    None,
    /// `True`, `False`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A string; ASCII only.
    Str(Rc<str>),
    /// A list.
    List(Rc<RefCell<Vec<Value>>>),
    /// A dictionary, in the order of insertion.
    Dict(Rc<RefCell<Vec<(Value, Value)>>>),
}

/// Why a run gave no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It took too many steps.
    Steps,
    /// An integer left 64 bits.
    Overflow,
    /// Python would raise (a type, an index, a division by zero, an unset name).
    Raised,
}

type Run<T> = Result<T, Fault>;

/// What a statement does to the flow.
enum Flow {
    Next,
    Break,
    Continue,
    Return(Value),
}

impl Value {
    /// A list of these.
    pub(super) fn list(items: Vec<Value>) -> Self {
        Self::List(Rc::new(RefCell::new(items)))
    }

    /// The value as Python writes it.
    pub(super) fn repr(&self) -> String {
        let mut out = String::new();
        self.write_repr(&mut out);
        out
    }

    fn write_repr(&self, out: &mut String) {
        match self {
            Self::None => out.push_str("None"),
            Self::Bool(true) => out.push_str("True"),
            Self::Bool(false) => out.push_str("False"),
            Self::Int(value) => {
                let _ = write!(out, "{value}");
            }
            Self::Str(text) => {
                let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
                out.push(quote);
                for c in text.chars() {
                    if c == quote || c == '\\' {
                        out.push('\\');
                    }
                    out.push(c);
                }
                out.push(quote);
            }
            Self::List(items) => {
                out.push('[');
                for (number, item) in items.borrow().iter().enumerate() {
                    out.push_str(if number > 0 { ", " } else { "" });
                    item.write_repr(out);
                }
                out.push(']');
            }
            Self::Dict(entries) => {
                out.push('{');
                for (number, (key, value)) in entries.borrow().iter().enumerate() {
                    out.push_str(if number > 0 { ", " } else { "" });
                    key.write_repr(out);
                    out.push_str(": ");
                    value.write_repr(out);
                }
                out.push('}');
            }
        }
    }

    fn truth(&self) -> bool {
        match self {
            Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) => !items.borrow().is_empty(),
            Self::Dict(entries) => !entries.borrow().is_empty(),
        }
    }

    fn int(&self) -> Run<i64> {
        match self {
            Self::Int(value) => Ok(*value),
            Self::Bool(value) => Ok(i64::from(*value)),
            _ => Err(Fault::Raised),
        }
    }

    fn str(&self) -> Run<&Rc<str>> {
        if let Self::Str(text) = self { Ok(text) } else { Err(Fault::Raised) }
    }

    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::List(a), Self::List(b)) => {
                let (a, b) = (a.borrow(), b.borrow());
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(b))
            }
            (Self::Dict(a), Self::Dict(b)) => {
                let (a, b) = (a.borrow(), b.borrow());
                a.len() == b.len() && a.iter().all(|(k, v)| b.iter().any(|(l, w)| k.equals(l) && v.equals(w)))
            }
            _ => matches!((self.int(), other.int()), (Ok(a), Ok(b)) if a == b),
        }
    }

    fn order(&self, other: &Self) -> Run<Ordering> {
        match (self, other) {
            (Self::Str(a), Self::Str(b)) => Ok(a.cmp(b)),
            (Self::List(a), Self::List(b)) => {
                let (a, b) = (a.borrow(), b.borrow());
                for (a, b) in a.iter().zip(b.iter()) {
                    if !a.equals(b) {
                        return a.order(b);
                    }
                }
                Ok(a.len().cmp(&b.len()))
            }
            _ => Ok(self.int()?.cmp(&other.int()?)),
        }
    }

    fn is(&self, other: &Self) -> Run<bool> {
        match (self, other) {
            (Self::None, Self::None) => Ok(true),
            (Self::None, _) | (_, Self::None) => Ok(false),
            // Whether two equal values are one object is CPython's affair, not the language's.
            _ => Err(Fault::Raised),
        }
    }

    fn contains(&self, item: &Self) -> Run<bool> {
        match self {
            Self::List(items) => Ok(items.borrow().iter().any(|other| other.equals(item))),
            Self::Dict(entries) => Ok(entries.borrow().iter().any(|(key, _)| key.equals(item))),
            Self::Str(text) => Ok(text.contains(&**item.str()?)),
            _ => Err(Fault::Raised),
        }
    }

    fn len(&self) -> Run<i64> {
        match self {
            Self::Str(text) => Ok(text.len() as i64),
            Self::List(items) => Ok(items.borrow().len() as i64),
            Self::Dict(entries) => Ok(entries.borrow().len() as i64),
            _ => Err(Fault::Raised),
        }
    }

    fn items(&self) -> Run<Vec<Value>> {
        match self {
            Self::List(items) => Ok(items.borrow().clone()),
            Self::Str(text) => Ok((0..text.len()).map(|i| Value::Str(text[i..=i].into())).collect()),
            Self::Dict(entries) => Ok(entries.borrow().iter().map(|(key, _)| key.clone()).collect()),
            _ => Err(Fault::Raised),
        }
    }

    /// A deep copy, so that a program cannot change an input that others get too.
    fn copy(&self) -> Self {
        match self {
            Self::List(items) => Self::list(items.borrow().iter().map(Self::copy).collect()),
            other => other.clone(),
        }
    }
}

/// Calls the last function of a program.
///
/// # Errors
/// Where Python would raise, an integer leaves 64 bits, or it takes more than `max_steps` statements and calls.
pub(super) fn run(module: &Module, arguments: &[Value], max_steps: u32) -> Run<Value> {
    let mut machine = Machine { module, steps: max_steps };
    machine.call(module.functions.len() - 1, arguments.iter().map(Value::copy).collect())
}

struct Machine<'a> {
    module: &'a Module,
    steps: u32,
}

/// The variables of a call; unset ones are empty.
type Frame = Vec<Option<Value>>;

impl Machine<'_> {
    fn step(&mut self) -> Run<()> {
        self.steps = self.steps.checked_sub(1).ok_or(Fault::Steps)?;
        Ok(())
    }

    fn call(&mut self, function: usize, arguments: Vec<Value>) -> Run<Value> {
        self.step()?;
        let module = self.module;
        let function = &module.functions[function];
        if arguments.len() != function.num_params {
            return Err(Fault::Raised);
        }
        let mut frame: Frame = arguments.into_iter().map(Some).collect();
        frame.resize(function.names.len(), None);
        match self.block(&function.body, &mut frame)? {
            Flow::Return(value) => Ok(value),
            _ => Ok(Value::None),
        }
    }

    fn block(&mut self, body: &[Stmt], frame: &mut Frame) -> Run<Flow> {
        for stmt in body {
            match self.statement(stmt, frame)? {
                Flow::Next => {}
                other => return Ok(other),
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, stmt: &Stmt, frame: &mut Frame) -> Run<Flow> {
        self.step()?;
        match stmt {
            Stmt::Assign(targets, values) => {
                if let ([target], [value]) = (targets.as_slice(), values.as_slice()) {
                    frame[*target] = Some(self.expr(value, frame)?);
                } else {
                    let values = values.iter().map(|value| self.expr(value, frame)).collect::<Run<Vec<_>>>()?;
                    for (target, value) in targets.iter().zip(values) {
                        frame[*target] = Some(value);
                    }
                }
            }
            Stmt::SetItem(name, key, value) => {
                let value = self.expr(value, frame)?;
                let Some(Value::Dict(entries)) = &frame[*name] else { return Err(Fault::Raised) };
                let entries = Rc::clone(entries);
                let key = self.expr(key, frame)?;
                if matches!(key, Value::List(_) | Value::Dict(_)) {
                    return Err(Fault::Raised);
                }
                let mut entries = entries.borrow_mut();
                match entries.iter_mut().find(|(known, _)| known.equals(&key)) {
                    Some((_, slot)) => *slot = value,
                    None => entries.push((key, value)),
                }
            }
            Stmt::Augment(name, op, value) => {
                let value = self.expr(value, frame)?;
                let old = frame[*name].clone().ok_or(Fault::Raised)?;
                frame[*name] = Some(binary(*op, &old, &value)?);
            }
            Stmt::If(test, body, orelse) => {
                let body = if self.expr(test, frame)?.truth() { body } else { orelse };
                return self.block(body, frame);
            }
            Stmt::While(test, body) => {
                while self.expr(test, frame)?.truth() {
                    self.step()?;
                    match self.block(body, frame)? {
                        Flow::Break => break,
                        Flow::Return(value) => return Ok(Flow::Return(value)),
                        Flow::Next | Flow::Continue => {}
                    }
                }
            }
            Stmt::For(targets, items, body) => return self.for_loop(targets, items, body, frame),
            Stmt::Return(value) => return Ok(Flow::Return(self.expr(value, frame)?)),
            Stmt::Break => return Ok(Flow::Break),
            Stmt::Continue => return Ok(Flow::Continue),
            Stmt::Expr(value) => {
                self.expr(value, frame)?;
            }
        }
        Ok(Flow::Next)
    }

    fn for_loop(&mut self, targets: &[usize], items: &Expr, body: &[Stmt], frame: &mut Frame) -> Run<Flow> {
        let (items, numbered) = match items {
            Expr::Builtin(Builtin::Enumerate, arguments) => (arguments.first().ok_or(Fault::Raised)?, true),
            other => (other, false),
        };
        if targets.len() != 1 + usize::from(numbered) {
            return Err(Fault::Raised);
        }
        let items: Box<dyn Iterator<Item = Value>> = match items {
            Expr::Builtin(Builtin::Range, arguments) => {
                let bounds = arguments.iter().map(|bound| self.expr(bound, frame)?.int()).collect::<Run<Vec<_>>>()?;
                Box::new(range(&bounds)?.map(Value::Int))
            }
            Expr::Builtin(Builtin::Reversed, arguments) => {
                let items = self.expr(arguments.first().ok_or(Fault::Raised)?, frame)?.items()?;
                Box::new(items.into_iter().rev())
            }
            other => Box::new(self.expr(other, frame)?.items()?.into_iter()),
        };
        for (number, item) in items.enumerate() {
            self.step()?;
            if numbered {
                frame[targets[0]] = Some(Value::Int(number as i64));
                frame[targets[1]] = Some(item);
            } else {
                frame[targets[0]] = Some(item);
            }
            match self.block(body, frame)? {
                Flow::Break => break,
                Flow::Return(value) => return Ok(Flow::Return(value)),
                Flow::Next | Flow::Continue => {}
            }
        }
        Ok(Flow::Next)
    }

    fn expr(&mut self, expr: &Expr, frame: &Frame) -> Run<Value> {
        Ok(match expr {
            Expr::None => Value::None,
            Expr::Bool(value) => Value::Bool(*value),
            Expr::Int(value) => Value::Int(*value),
            Expr::Str(text) => Value::Str(Rc::clone(text)),
            Expr::Name(slot) => frame[*slot].clone().ok_or(Fault::Raised)?,
            Expr::List(items) => Value::list(self.all(items, frame)?),
            Expr::Dict => Value::Dict(Rc::default()),
            Expr::Neg(value) => Value::Int(self.expr(value, frame)?.int()?.checked_neg().ok_or(Fault::Overflow)?),
            Expr::Not(value) => Value::Bool(!self.expr(value, frame)?.truth()),
            Expr::Binary(op, left, right) => {
                let left = self.expr(left, frame)?;
                binary(*op, &left, &self.expr(right, frame)?)?
            }
            Expr::And(left, right) => {
                let left = self.expr(left, frame)?;
                if left.truth() { self.expr(right, frame)? } else { left }
            }
            Expr::Or(left, right) => {
                let left = self.expr(left, frame)?;
                if left.truth() { left } else { self.expr(right, frame)? }
            }
            Expr::Compare(first, rest) => {
                let mut left = self.expr(first, frame)?;
                for (op, right) in rest {
                    let right = self.expr(right, frame)?;
                    if !compare(*op, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Value::Bool(true)
            }
            Expr::Call(function, arguments) => {
                let arguments = self.all(arguments, frame)?;
                self.call(*function, arguments)?
            }
            Expr::Builtin(builtin, arguments) => builtin_call(*builtin, self.all(arguments, frame)?)?,
            Expr::Method(object, method, arguments) => {
                let object = self.expr(object, frame)?;
                method_call(&object, *method, self.all(arguments, frame)?)?
            }
            Expr::Index(object, index) => {
                let object = self.expr(object, frame)?;
                index_of(&object, &self.expr(index, frame)?)?
            }
            Expr::Slice(object, parts) => {
                let object = self.expr(object, frame)?;
                let mut bounds = [None; 3];
                for (bound, part) in bounds.iter_mut().zip(parts) {
                    if let Some(part) = part {
                        *bound = Some(self.expr(part, frame)?.int()?);
                    }
                }
                slice(&object, bounds)?
            }
        })
    }

    fn all(&mut self, items: &[Expr], frame: &Frame) -> Run<Vec<Value>> {
        items.iter().map(|item| self.expr(item, frame)).collect()
    }
}

fn range(bounds: &[i64]) -> Run<impl Iterator<Item = i64> + use<>> {
    let (start, stop, step) = match *bounds {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] if step != 0 => (start, stop, step),
        _ => return Err(Fault::Raised),
    };
    Ok(std::iter::successors(Some(start), move |at| at.checked_add(step))
        .take_while(move |at| if step > 0 { *at < stop } else { *at > stop }))
}

/// Floor division and its remainder, which has the sign of the divisor.
fn floor_div(a: i64, b: i64) -> Run<(i64, i64)> {
    if b == 0 {
        return Err(Fault::Raised);
    }
    let (quotient, remainder) = (a.checked_div(b).ok_or(Fault::Overflow)?, a.checked_rem(b).ok_or(Fault::Overflow)?);
    Ok(if remainder != 0 && (remainder < 0) != (b < 0) { (quotient - 1, remainder + b) } else { (quotient, remainder) })
}

fn binary(op: BinOp, left: &Value, right: &Value) -> Run<Value> {
    match (op, left, right) {
        (BinOp::Add, Value::Str(a), Value::Str(b)) => return Ok(Value::Str(format!("{a}{b}").into())),
        (BinOp::Add, Value::List(a), Value::List(b)) => {
            return Ok(Value::list(a.borrow().iter().chain(b.borrow().iter()).cloned().collect()));
        }
        (BinOp::Mul, Value::Str(text), count) => {
            return Ok(Value::Str(text.repeat(usize::try_from(count.int()?).unwrap_or(0)).into()));
        }
        _ => {}
    }
    let (a, b) = (left.int()?, right.int()?);
    let value = match op {
        BinOp::Add => a.checked_add(b),
        BinOp::Sub => a.checked_sub(b),
        BinOp::Mul => a.checked_mul(b),
        BinOp::FloorDiv => Some(floor_div(a, b)?.0),
        BinOp::Mod => Some(floor_div(a, b)?.1),
        // A negative exponent gives a float, which this Python does not have.
        BinOp::Pow => a.checked_pow(u32::try_from(b).map_err(|_| Fault::Raised)?),
    };
    value.map(Value::Int).ok_or(Fault::Overflow)
}

fn compare(op: CmpOp, left: &Value, right: &Value) -> Run<bool> {
    Ok(match op {
        CmpOp::Eq => left.equals(right),
        CmpOp::Ne => !left.equals(right),
        CmpOp::Lt => left.order(right)?.is_lt(),
        CmpOp::Le => left.order(right)?.is_le(),
        CmpOp::Gt => left.order(right)?.is_gt(),
        CmpOp::Ge => left.order(right)?.is_ge(),
        CmpOp::In => right.contains(left)?,
        CmpOp::NotIn => !right.contains(left)?,
        CmpOp::Is => left.is(right)?,
        CmpOp::IsNot => !left.is(right)?,
    })
}

fn builtin_call(builtin: Builtin, arguments: Vec<Value>) -> Run<Value> {
    let first = arguments.first().ok_or(Fault::Raised)?;
    Ok(match builtin {
        Builtin::Abs => Value::Int(first.int()?.checked_abs().ok_or(Fault::Overflow)?),
        Builtin::Len => Value::Int(first.len()?),
        Builtin::Sorted => {
            let mut items = first.items()?;
            let mut fault = None;
            items.sort_by(|a, b| {
                a.order(b).unwrap_or_else(|found| {
                    fault = Some(found);
                    Ordering::Equal
                })
            });
            if let Some(fault) = fault {
                return Err(fault);
            }
            Value::list(items)
        }
        Builtin::Max | Builtin::Min => {
            let items = if arguments.len() == 1 { first.items()? } else { arguments.clone() };
            let mut best = items.first().ok_or(Fault::Raised)?.clone();
            let wanted = if builtin == Builtin::Max { Ordering::Greater } else { Ordering::Less };
            for item in &items[1..] {
                if item.order(&best)? == wanted {
                    best = item.clone();
                }
            }
            best
        }
        Builtin::Sum => {
            let mut total = 0_i64;
            for item in first.items()? {
                total = total.checked_add(item.int()?).ok_or(Fault::Overflow)?;
            }
            Value::Int(total)
        }
        // They give lazy objects in Python, so they stand in loop heads only.
        Builtin::Range | Builtin::Reversed | Builtin::Enumerate => return Err(Fault::Raised),
    })
}

fn method_call(object: &Value, method: Method, mut arguments: Vec<Value>) -> Run<Value> {
    match (object, method) {
        (Value::List(items), Method::Append) if arguments.len() == 1 => {
            items.borrow_mut().push(arguments.remove(0));
            return Ok(Value::None);
        }
        (Value::Dict(entries), Method::Get) if arguments.len() == 2 => {
            let entries = entries.borrow();
            let found = entries.iter().find(|(key, _)| key.equals(&arguments[0])).map(|(_, value)| value.clone());
            return Ok(found.unwrap_or_else(|| arguments.remove(1)));
        }
        _ => {}
    }
    let text = object.str()?;
    let cased = |up: bool| {
        let letters = || text.bytes().filter(u8::is_ascii_alphabetic);
        letters().next().is_some() && letters().all(|letter| letter.is_ascii_uppercase() == up)
    };
    let all = |test: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(test);
    Ok(match method {
        Method::Upper => Value::Str(text.to_ascii_uppercase().into()),
        Method::Lower => Value::Str(text.to_ascii_lowercase().into()),
        Method::Capitalize => {
            let mut lower = text.to_ascii_lowercase();
            if let Some(first) = lower.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            Value::Str(lower.into())
        }
        Method::IsUpper => Value::Bool(cased(true)),
        Method::IsLower => Value::Bool(cased(false)),
        Method::IsDigit => Value::Bool(all(u8::is_ascii_digit)),
        Method::IsAlpha => Value::Bool(all(u8::is_ascii_alphabetic)),
        Method::Split => Value::list(text.split_ascii_whitespace().map(|word| Value::Str(word.into())).collect()),
        Method::Join => {
            let items = arguments.first().ok_or(Fault::Raised)?.items()?;
            let items = items.iter().map(|item| item.str().map(|item| &**item)).collect::<Run<Vec<_>>>()?;
            Value::Str(items.join(&**text).into())
        }
        Method::Append | Method::Get => return Err(Fault::Raised),
    })
}

fn index_of(object: &Value, index: &Value) -> Run<Value> {
    if let Value::Dict(entries) = object {
        let entries = entries.borrow();
        return entries.iter().find(|(key, _)| key.equals(index)).map(|(_, value)| value.clone()).ok_or(Fault::Raised);
    }
    let len = object.len()?;
    let index = index.int()?;
    let index = if index < 0 { index + len } else { index };
    if !(0..len).contains(&index) {
        return Err(Fault::Raised);
    }
    let index = index as usize;
    match object {
        Value::List(items) => Ok(items.borrow()[index].clone()),
        Value::Str(text) => Ok(Value::Str(text[index..=index].into())),
        _ => Err(Fault::Raised),
    }
}

fn slice(object: &Value, [start, stop, step]: [Option<i64>; 3]) -> Run<Value> {
    let len = object.len()?;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Fault::Raised);
    }
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clip = |bound: i64| (if bound < 0 { bound + len } else { bound }).clamp(low, high);
    let start = start.map_or(if step > 0 { low } else { high }, clip);
    let stop = stop.map_or(if step > 0 { high } else { low }, clip);
    let places = range(&[start, stop, step])?.map(|at| at as usize);
    match object {
        Value::List(items) => {
            let items = items.borrow();
            Ok(Value::list(places.map(|at| items[at].clone()).collect()))
        }
        Value::Str(text) => Ok(Value::Str(places.map(|at| &text[at..=at]).collect::<String>().into())),
        _ => Err(Fault::Raised),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn eval(expression: &str) -> Result<String, Fault> {
        let module = parse(&format!("def f():\n    return {expression}\n")).unwrap();
        run(&module, &[], 100).map(|value| value.repr())
    }

    #[test]
    fn arithmetic_is_pythons() {
        for (expression, expected) in [
            ("-7 // 2", "-4"),
            ("-7 % 3", "2"),
            ("7 % -3", "-2"),
            ("7 // -2", "-4"),
            ("-2 ** 2", "-4"),
            ("2 ** 3 * 2", "16"),
            ("10 - 3 - 2", "5"),
            ("1 < 2 < 2", "False"),
            ("True + 1", "2"),
            ("0 or []", "[]"),
            ("3 and \"a\"", "'a'"),
            ("[3, 1] < [3, 2]", "True"),
            ("\"b\" not in \"abc\"", "False"),
            ("[1, 2, 3, 4][::-2]", "[4, 2]"),
            ("[1, 2, 3, 4][-3:10]", "[2, 3, 4]"),
            ("\"abc\"[:2] * 2", "'abab'"),
            ("\"aB1\".isupper()", "False"),
            ("\"it's\"", "\"it's\""),
            ("sorted([3, 1, 2])[-1]", "3"),
            ("\"-\".join(\" a  b \".split())", "'a-b'"),
        ] {
            assert_eq!(eval(expression).as_deref(), Ok(expected), "{expression}");
        }
    }

    #[test]
    fn what_python_would_raise_and_what_leaves_64_bits_is_a_fault() {
        assert_eq!(eval("1 // 0"), Err(Fault::Raised));
        assert_eq!(eval("[1][1]"), Err(Fault::Raised));
        assert_eq!(eval("\"a\" + 1"), Err(Fault::Raised));
        assert_eq!(eval("9 ** 30"), Err(Fault::Overflow));
        let endless = parse("def f():\n    while True:\n        x = 1\n").unwrap();
        assert_eq!(run(&endless, &[], 1000).map(|value| value.repr()), Err(Fault::Steps));
    }
}
