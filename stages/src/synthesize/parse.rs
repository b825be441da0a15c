//! Reads the text of a template into the syntax tree of [`super::python`].
//!
//! It knows the small Python of the templates and nothing more; what it does not know is a mistake in a template, and says where.

use super::python::{BinOp, Builtin, CmpOp, Expr, Function, Method, Module, Stmt};

/// Reads a program: functions on the top level.
///
/// # Errors
/// The line and what was found there.
pub(super) fn parse(text: &str) -> Result<Module, String> {
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let body = line.trim_start();
        if body.is_empty() {
            continue;
        }
        let tokens = tokens(body).map_err(|problem| format!("line {}: {problem}: {line}", number + 1))?;
        lines.push(Line { indent: line.len() - body.len(), tokens });
    }
    let mut parser = Parser { lines, line: 0, at: 0, functions: Vec::new(), names: Vec::new() };
    while parser.line < parser.lines.len() {
        parser.function().map_err(|problem| format!("statement {}: {problem}\n{text}", parser.line + 1))?;
    }
    Ok(Module { functions: parser.functions })
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Int(i64),
    Str(String),
    Op(&'static str),
}

struct Line {
    indent: usize,
    tokens: Vec<Token>,
}

/// Longest first.
const OPERATORS: &[&str] = &[
    "//=", "**", "//", "==", "!=", "<=", ">=", "+=", "-=", "*=", "%=", "+", "-", "*", "%", "<", ">", "=", "(", ")",
    "[", "]", "{", "}", ",", ":", ".",
];

fn tokens(line: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let taken = if first == ' ' {
            1
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            end
        } else if first.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            tokens.push(Token::Int(rest[..end].parse().map_err(|_| "a number beyond 64 bits".to_owned())?));
            end
        } else if first == '"' {
            let end = rest[1..].find('"').ok_or("a string without end")?;
            tokens.push(Token::Str(rest[1..=end].to_owned()));
            end + 2
        } else {
            let operator = OPERATORS.iter().find(|operator| rest.starts_with(**operator));
            let operator = operator.ok_or_else(|| format!("unknown character {first:?}"))?;
            tokens.push(Token::Op(operator));
            operator.len()
        };
        rest = &rest[taken..];
    }
    Ok(tokens)
}

struct Parser {
    lines: Vec<Line>,
    /// The line that is read, and the token in it.
    line: usize,
    at: usize,
    functions: Vec<Function>,
    /// The slots of the function that is read.
    names: Vec<String>,
}

type Parsed<T> = Result<T, String>;

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.lines.get(self.line)?.tokens.get(self.at)
    }

    fn take_op(&mut self, op: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Op(found)) if *found == op);
        self.at += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(found)) if found == word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, op: &str) -> Parsed<()> {
        if self.take_op(op) { Ok(()) } else { Err(format!("expected {op:?}, found {:?}", self.peek())) }
    }

    fn word(&mut self) -> Parsed<String> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            other => Err(format!("expected a name, found {other:?}")),
        }
    }

    fn end_line(&mut self) -> Parsed<()> {
        if let Some(token) = self.peek() {
            return Err(format!("expected the end of the line, found {token:?}"));
        }
        self.line += 1;
        self.at = 0;
        Ok(())
    }

    fn slot(&mut self, name: String) -> usize {
        self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        })
    }

    fn function(&mut self) -> Parsed<()> {
        if !self.take_word("def") {
            return Err(format!("expected a def, found {:?}", self.peek()));
        }
        let name = self.word()?;
        self.names.clear();
        self.expect("(")?;
        while !self.take_op(")") {
            let param = self.word()?;
            self.slot(param);
            self.take_op(",");
        }
        let num_params = self.names.len();
        let body = self.suite(0)?;
        let names = std::mem::take(&mut self.names);
        self.functions.push(Function { name, num_params, names, body });
        Ok(())
    }

    /// `:`, the end of the line, and the lines that are indented deeper than `indent`.
    fn suite(&mut self, indent: usize) -> Parsed<Vec<Stmt>> {
        self.expect(":")?;
        self.end_line()?;
        let mut body = Vec::new();
        while let Some(line) = self.lines.get(self.line) {
            if line.indent <= indent {
                break;
            }
            if line.indent != indent + 4 {
                return Err("expected an indentation of four spaces".into());
            }
            body.push(self.statement(indent + 4)?);
        }
        if body.is_empty() { Err("expected an indented block".into()) } else { Ok(body) }
    }

    fn statement(&mut self, indent: usize) -> Parsed<Stmt> {
        let Some(Token::Word(word)) = self.peek() else {
            return Err(format!("expected a statement, found {:?}", self.peek()));
        };
        let word = word.clone();
        let keyword = matches!(word.as_str(), "if" | "while" | "for" | "return" | "break" | "continue");
        self.at += usize::from(keyword);
        match word.as_str() {
            "if" => {
                let test = self.expr()?;
                let body = self.suite(indent)?;
                let same_level = self.lines.get(self.line).is_some_and(|line| line.indent == indent);
                let orelse = if same_level && self.take_word("else") { self.suite(indent)? } else { Vec::new() };
                return Ok(Stmt::If(test, body, orelse));
            }
            "while" => {
                let test = self.expr()?;
                return Ok(Stmt::While(test, self.suite(indent)?));
            }
            "for" => {
                let mut targets = Vec::new();
                while !self.take_word("in") {
                    let target = self.word()?;
                    targets.push(self.slot(target));
                    self.take_op(",");
                }
                let items = self.expr()?;
                return Ok(Stmt::For(targets, items, self.suite(indent)?));
            }
            _ => {}
        }
        let stmt = match word.as_str() {
            "return" => Stmt::Return(self.expr()?),
            "break" => Stmt::Break,
            "continue" => Stmt::Continue,
            _ => self.simple()?,
        };
        self.end_line()?;
        Ok(stmt)
    }

    fn simple(&mut self) -> Parsed<Stmt> {
        let first = self.expr()?;
        let as_slot = |expr: &Expr| match expr {
            Expr::Name(slot) => Ok(*slot),
            other => Err(format!("expected a name to assign to, found {other:?}")),
        };
        for op in ["+", "-", "*", "//", "%"] {
            if self.take_op(&format!("{op}=")) {
                let op = BinOp::parse(op).expect("these are arithmetic operators");
                return Ok(Stmt::Augment(as_slot(&first)?, op, self.expr()?));
            }
        }
        let mut targets = vec![first];
        while self.take_op(",") {
            targets.push(self.expr()?);
        }
        if !self.take_op("=") {
            return Ok(Stmt::Expr(targets.remove(0)));
        }
        let mut values = vec![self.expr()?];
        while self.take_op(",") {
            values.push(self.expr()?);
        }
        if let [Expr::Index(object, key)] = targets.as_slice() {
            return Ok(Stmt::SetItem(as_slot(object)?, (**key).clone(), values.remove(0)));
        }
        Ok(Stmt::Assign(targets.iter().map(as_slot).collect::<Parsed<_>>()?, values))
    }

    fn expr(&mut self) -> Parsed<Expr> {
        let mut left = self.conjunction()?;
        while self.take_word("or") {
            left = Expr::Or(left.into(), self.conjunction()?.into());
        }
        Ok(left)
    }

    fn conjunction(&mut self) -> Parsed<Expr> {
        let mut left = self.negation()?;
        while self.take_word("and") {
            left = Expr::And(left.into(), self.negation()?.into());
        }
        Ok(left)
    }

    fn negation(&mut self) -> Parsed<Expr> {
        if self.take_word("not") { Ok(Expr::Not(self.negation()?.into())) } else { self.comparison() }
    }

    fn comparison(&mut self) -> Parsed<Expr> {
        let first = self.arithmetic(5)?;
        let mut rest = Vec::new();
        while let Some(op) = self.comparison_op() {
            rest.push((op, self.arithmetic(5)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(first.into(), rest) })
    }

    fn comparison_op(&mut self) -> Option<CmpOp> {
        if self.take_word("is") {
            return Some(if self.take_word("not") { CmpOp::IsNot } else { CmpOp::Is });
        }
        if self.take_word("in") {
            return Some(CmpOp::In);
        }
        if self.take_word("not") {
            return self.take_word("in").then_some(CmpOp::NotIn);
        }
        let Some(Token::Op(op)) = self.peek() else { return None };
        let op = CmpOp::parse(op)?;
        self.at += 1;
        Some(op)
    }

    /// Operators that bind at least as tightly as `level`: 5 for sums, 6 for products, 7 for signs and powers.
    fn arithmetic(&mut self, level: u8) -> Parsed<Expr> {
        if level == 7 {
            if self.take_op("-") {
                return Ok(match self.arithmetic(7)? {
                    Expr::Int(value) => Expr::Int(-value),
                    other => Expr::Neg(other.into()),
                });
            }
            let base = self.primary()?;
            return Ok(if self.take_op("**") {
                Expr::Binary(BinOp::Pow, base.into(), self.arithmetic(7)?.into())
            } else {
                base
            });
        }
        let operators: &[&str] = if level == 5 { &["+", "-"] } else { &["*", "//", "%"] };
        let mut left = self.arithmetic(level + 1)?;
        while let Some(op) = operators.iter().find(|op| self.take_op(op)) {
            let op = BinOp::parse(op).expect("these are arithmetic operators");
            left = Expr::Binary(op, left.into(), self.arithmetic(level + 1)?.into());
        }
        Ok(left)
    }

    fn arguments(&mut self, close: &str) -> Parsed<Vec<Expr>> {
        let mut arguments = Vec::new();
        while !self.take_op(close) {
            arguments.push(self.expr()?);
            self.take_op(",");
        }
        Ok(arguments)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let token = self.peek().cloned().ok_or("expected an expression, found the end of the line")?;
        self.at += 1;
        let mut expr = match token {
            Token::Int(value) => Expr::Int(value),
            Token::Str(value) => Expr::Str(value.into()),
            Token::Op("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                inner
            }
            Token::Op("[") => Expr::List(self.arguments("]")?),
            Token::Op("{") => {
                self.expect("}")?;
                Expr::Dict
            }
            Token::Word(word) => match word.as_str() {
                "None" => Expr::None,
                "True" => Expr::Bool(true),
                "False" => Expr::Bool(false),
                name if self.take_op("(") => {
                    let function = self.functions.iter().position(|function| function.name == name);
                    let builtin = Builtin::parse(name);
                    let arguments = self.arguments(")")?;
                    match (function, builtin) {
                        (Some(function), _) => Expr::Call(function, arguments),
                        (None, Some(builtin)) => Expr::Builtin(builtin, arguments),
                        (None, None) => return Err(format!("unknown function {name:?}")),
                    }
                }
                _ => Expr::Name(self.slot(word)),
            },
            Token::Op(op) => return Err(format!("expected an expression, found {op:?}")),
        };
        loop {
            if self.take_op(".") {
                let name = self.word()?;
                let method = Method::parse(&name).ok_or_else(|| format!("unknown method {name:?}"))?;
                self.expect("(")?;
                expr = Expr::Method(expr.into(), method, self.arguments(")")?);
            } else if self.take_op("[") {
                expr = self.subscript(expr)?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn subscript(&mut self, object: Expr) -> Parsed<Expr> {
        let mut parts = [None, None, None];
        let mut part = 0;
        while !self.take_op("]") {
            if self.take_op(":") {
                part += 1;
            } else if part < 3 {
                parts[part] = Some(Box::new(self.expr()?));
            } else {
                return Err("expected at most two colons in a slice".into());
            }
        }
        match (part, parts) {
            (0, [Some(index), ..]) => Ok(Expr::Index(object.into(), index)),
            (0, _) => Err("expected an index".into()),
            (_, parts) => Ok(Expr::Slice(object.into(), parts)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back_as_the_same_program() {
        let text = r#"def double(n):
    return n * 2


def solve(xs, k):
    out = []
    freq = {}
    a, b = xs[0], xs[-1]
    if not xs or k == 0 and len(xs) > 3:
        return "none"
    for i, x in enumerate(xs[1:][::-1]):
        if -2 <= x <= k - (3 - i) and not (x in out):
            out.append(double(x) % 10 ** 2)
            freq[x] = freq.get(x, 0) + 1
        else:
            k -= -x
    while k > 0:
        k //= 2
        if out is not None and (a + b) * 2 != -b:
            continue
        break
    return ",".join(out[:2])
"#;
        let module = parse(text).unwrap();
        assert_eq!(module.print(), text);
        assert_eq!(parse(&module.print()).unwrap(), module);
    }

    #[test]
    fn brackets_that_are_not_needed_go_and_those_that_are_stay() {
        let module = parse("def f(a, b):\n    return (a * b) + (3) - (a - (b + 1))\n").unwrap();
        assert_eq!(module.print(), "def f(a, b):\n    return a * b + 3 - (a - (b + 1))\n");
    }

    #[test]
    fn a_mistake_in_a_template_is_named() {
        let problem = parse("def f(a):\n    return foo(a)\n").unwrap_err();
        assert!(problem.contains("unknown function \"foo\""), "{problem}");
        assert!(parse("def f(a):\n  return a\n").unwrap_err().contains("four spaces"));
    }
}
