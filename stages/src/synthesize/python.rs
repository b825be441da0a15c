//! The small Python that the problems are written in: its syntax tree, and how it is printed.
//!
//! The tree is what everything else works on: [`super::parse`] makes it from a template's text, [`super::eval`] runs it,
//! [`super::mutate`] breaks it. Names are slots of their function, so that running it looks nothing up.

use std::fmt::Write;
use std::rc::Rc;

/// A program: functions, each of which may call those above it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Module {
    /// In the order of the text.
    pub(super) functions: Vec<Function>,
}

/// A `def` on the top level.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Function {
    /// What it is called.
    pub(super) name: String,
    /// How many of `names` are parameters; they come first.
    pub(super) num_params: usize,
    /// The names of its slots.
    pub(super) names: Vec<String>,
    /// What it does.
    pub(super) body: Vec<Stmt>,
}

/// A statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stmt {
    /// `a = 1` or `a, b = b, a`.
    Assign(Vec<usize>, Vec<Expr>),
    /// `d[k] = v`.
    SetItem(usize, Expr, Expr),
    /// `a += 1`.
    Augment(usize, BinOp, Expr),
    /// `if` with its body and that of its `else`, which may be empty.
    If(Expr, Vec<Stmt>, Vec<Stmt>),
    /// `while`.
    While(Expr, Vec<Stmt>),
    /// `for` with one or two targets.
    For(Vec<usize>, Expr, Vec<Stmt>),
    /// `return`.
    Return(Expr),
    /// `break`.
    Break,
    /// `continue`.
    Continue,
    /// A call for its effect.
    Expr(Expr),
}

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A number; negative ones are written with a unary minus and folded.
    Int(i64),
    /// A string.
    Str(Rc<str>),
    /// A variable: a slot of the function.
    Name(usize),
    /// `[a, b]`.
    List(Vec<Expr>),
    /// `{}`.
    Dict,
    /// `-a`.
    Neg(Box<Expr>),
    /// `not a`.
    Not(Box<Expr>),
    /// Arithmetic.
    Binary(BinOp, Box<Expr>, Box<Expr>),
    /// `a and b`.
    And(Box<Expr>, Box<Expr>),
    /// `a or b`.
    Or(Box<Expr>, Box<Expr>),
    /// `a < b`, `a <= b <= c`.
    Compare(Box<Expr>, Vec<(CmpOp, Expr)>),
    /// A call of one of the functions above, by its place.
    Call(usize, Vec<Expr>),
    /// A call of a builtin.
    Builtin(Builtin, Vec<Expr>),
    /// A call of a method.
    Method(Box<Expr>, Method, Vec<Expr>),
    /// `a[i]`.
    Index(Box<Expr>, Box<Expr>),
    /// `a[i:j:k]`.
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
}

/// Declares an enum of words together with its spelling both ways.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum $name { $(#[doc = concat!("`", $text, "`")] $variant),* }
        impl $name {
            /// How Python spells it.
            pub(super) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
            /// The one that Python spells so.
            pub(super) fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words!(/// Arithmetic operators.
    BinOp { Add = "+", Sub = "-", Mul = "*", FloorDiv = "//", Mod = "%", Pow = "**" });
words!(/// Comparisons.
    CmpOp { Eq = "==", Ne = "!=", Lt = "<", Le = "<=", Gt = ">", Ge = ">=", In = "in", NotIn = "not in", Is = "is", IsNot = "is not" });
words!(/// Builtin functions.
    Builtin { Abs = "abs", Len = "len", Range = "range", Reversed = "reversed", Enumerate = "enumerate", Sorted = "sorted", Max = "max", Min = "min", Sum = "sum" });
words!(/// Methods.
    Method { Append = "append", Get = "get", Join = "join", Split = "split", Upper = "upper", Lower = "lower", Capitalize = "capitalize",
        IsUpper = "isupper", IsLower = "islower", IsDigit = "isdigit", IsAlpha = "isalpha" });

impl BinOp {
    fn precedence(self) -> u8 {
        match self {
            Self::Add | Self::Sub => 5,
            Self::Mul | Self::FloorDiv | Self::Mod => 6,
            Self::Pow => 8,
        }
    }
}

impl Expr {
    fn precedence(&self) -> u8 {
        match self {
            Self::Or(..) => 1,
            Self::And(..) => 2,
            Self::Not(..) => 3,
            Self::Compare(..) => 4,
            Self::Binary(op, ..) => op.precedence(),
            Self::Neg(..) => 7,
            Self::Int(value) if *value < 0 => 7,
            _ => 9,
        }
    }
}

impl Module {
    /// The program as text: four spaces a level, two blank lines between functions, a line break at the end.
    pub(super) fn print(&self) -> String {
        let mut out = String::new();
        for (number, function) in self.functions.iter().enumerate() {
            if number > 0 {
                out.push_str("\n\n");
            }
            let printer = Printer { module: self, names: &function.names };
            let params = function.names[..function.num_params].join(", ");
            let _ = writeln!(out, "def {}({params}):", function.name);
            printer.block(&mut out, &function.body, 1);
        }
        out
    }
}

struct Printer<'a> {
    module: &'a Module,
    names: &'a [String],
}

impl Printer<'_> {
    fn block(&self, out: &mut String, body: &[Stmt], level: usize) {
        let pad = "    ".repeat(level);
        for stmt in body {
            out.push_str(&pad);
            match stmt {
                Stmt::Assign(targets, values) => {
                    let _ = writeln!(out, "{} = {}", self.targets(targets), self.list(values));
                }
                Stmt::SetItem(name, key, value) => {
                    let _ = writeln!(out, "{}[{}] = {}", self.names[*name], self.text(key), self.text(value));
                }
                Stmt::Augment(name, op, value) => {
                    let _ = writeln!(out, "{} {}= {}", self.names[*name], op.as_str(), self.text(value));
                }
                Stmt::If(test, body, orelse) => {
                    let _ = writeln!(out, "if {}:", self.text(test));
                    self.block(out, body, level + 1);
                    if !orelse.is_empty() {
                        let _ = writeln!(out, "{pad}else:");
                        self.block(out, orelse, level + 1);
                    }
                }
                Stmt::While(test, body) => {
                    let _ = writeln!(out, "while {}:", self.text(test));
                    self.block(out, body, level + 1);
                }
                Stmt::For(targets, items, body) => {
                    let _ = writeln!(out, "for {} in {}:", self.targets(targets), self.text(items));
                    self.block(out, body, level + 1);
                }
                Stmt::Return(value) => {
                    let _ = writeln!(out, "return {}", self.text(value));
                }
                Stmt::Break => out.push_str("break\n"),
                Stmt::Continue => out.push_str("continue\n"),
                Stmt::Expr(value) => {
                    let _ = writeln!(out, "{}", self.text(value));
                }
            }
        }
    }

    fn targets(&self, targets: &[usize]) -> String {
        targets.iter().map(|&slot| self.names[slot].as_str()).collect::<Vec<_>>().join(", ")
    }

    fn list(&self, items: &[Expr]) -> String {
        items.iter().map(|item| self.text(item)).collect::<Vec<_>>().join(", ")
    }

    /// An operand that must bind at least as tightly as `precedence`.
    fn operand(&self, expr: &Expr, precedence: u8) -> String {
        let text = self.text(expr);
        if expr.precedence() < precedence { format!("({text})") } else { text }
    }

    fn text(&self, expr: &Expr) -> String {
        match expr {
            Expr::None => "None".into(),
            Expr::Bool(true) => "True".into(),
            Expr::Bool(false) => "False".into(),
            Expr::Int(value) => value.to_string(),
            Expr::Str(value) => format!("\"{value}\""),
            Expr::Name(slot) => self.names[*slot].clone(),
            Expr::List(items) => format!("[{}]", self.list(items)),
            Expr::Dict => "{}".into(),
            Expr::Neg(value) => format!("-{}", self.operand(value, 7)),
            // A comparison needs no brackets here, but reads better with them.
            Expr::Not(value) => {
                format!("not {}", self.operand(value, if matches!(**value, Expr::Compare(..)) { 5 } else { 3 }))
            }
            Expr::Binary(op, left, right) => {
                let precedence = op.precedence();
                let (left, right) = (self.operand(left, precedence), self.operand(right, precedence + 1));
                format!("{left} {} {right}", op.as_str())
            }
            Expr::And(left, right) => format!("{} and {}", self.operand(left, 2), self.operand(right, 3)),
            Expr::Or(left, right) => format!("{} or {}", self.operand(left, 1), self.operand(right, 2)),
            Expr::Compare(first, rest) => {
                let mut text = self.operand(first, 5);
                for (op, value) in rest {
                    let _ = write!(text, " {} {}", op.as_str(), self.operand(value, 5));
                }
                text
            }
            Expr::Call(function, arguments) => {
                format!("{}({})", self.module.functions[*function].name, self.list(arguments))
            }
            Expr::Builtin(builtin, arguments) => format!("{}({})", builtin.as_str(), self.list(arguments)),
            Expr::Method(object, method, arguments) => {
                format!("{}.{}({})", self.operand(object, 9), method.as_str(), self.list(arguments))
            }
            Expr::Index(object, index) => format!("{}[{}]", self.operand(object, 9), self.text(index)),
            Expr::Slice(object, [start, stop, step]) => {
                let part = |part: &Option<Box<Expr>>| part.as_ref().map(|part| self.text(part)).unwrap_or_default();
                let step = step.as_ref().map(|step| format!(":{}", self.text(step))).unwrap_or_default();
                format!("{}[{}:{}{step}]", self.operand(object, 9), part(start), part(stop))
            }
        }
    }
}
