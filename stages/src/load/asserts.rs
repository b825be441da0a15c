//! Lowers literal asserts to cases: what can be judged from outside a program need not run next to it.
//!
//! An assert is lowered where it has one of the forms `f(args) == value` (either way round), `abs(f(args) - value) < tolerance`,
//! `f(args)` and `not f(args)`, with `is None` for `== None`, where `args` and `value` are literals: numbers, strings, containers, constants,
//! signs and plain arithmetic over them, `set()` and `float("inf")`. `is True` is not `== True`, so it stays.
//! Literals are written anew, so a case holds no comment and no arithmetic.

use crate::columns::{Case, Check};
use tree_sitter::{Node, Parser};

/// The tests of a problem, lowered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lowered {
    /// The function that all of them call.
    pub(super) function: String,
    /// In the order of the text.
    pub(super) cases: Vec<Case>,
}

/// Reads test code. Holds a parser, so keep one for many problems.
pub(super) struct AssertReader {
    parser: Parser,
}

impl AssertReader {
    /// A reader.
    pub(super) fn new() -> Self {
        let mut parser = Parser::new();
        parser.set_language(&tree_sitter_python::LANGUAGE.into()).expect("the grammar is built against this library");
        Self { parser }
    }

    /// Lowers the body of `def check(candidate)` (`HumanEval`); nothing where a statement of it is anything but a literal assert.
    pub(super) fn check_function(&mut self, code: &str) -> Option<Vec<Case>> {
        let tree = self.parser.parse(code, None)?;
        let root = tree.root_node();
        if root.has_error() {
            return None;
        }
        let reader = Reader { code };
        let checks: Vec<Node<'_>> = children(root)
            .into_iter()
            .filter(|node| node.kind() == "function_definition" && reader.field(*node, "name") == Some("check"))
            .collect();
        let [check] = checks.as_slice() else { return None };
        let parameters = children(check.child_by_field_name("parameters")?);
        let [candidate] = parameters.as_slice() else { return None };
        let lowered = reader.asserts(&children(check.child_by_field_name("body")?))?;
        (lowered.function == reader.text(*candidate)).then_some(lowered.cases)
    }

    /// Lowers asserts on the top level (`MBPP`); nothing where a statement is anything else, or where they call more than one function.
    pub(super) fn asserts(&mut self, code: &str) -> Option<Lowered> {
        let tree = self.parser.parse(code, None)?;
        let root = tree.root_node();
        if root.has_error() {
            return None;
        }
        Reader { code }.asserts(&children(root))
    }

    /// The functions that a program defines, anywhere, in the order of the text.
    pub(super) fn functions(&mut self, code: &str) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(tree) = self.parser.parse(code, None) {
            let reader = Reader { code };
            each(tree.root_node(), &mut |node| {
                if node.kind() == "function_definition" {
                    found.extend(reader.field(node, "name").map(str::to_owned));
                }
            });
        }
        found
    }

    /// The first of `names` that some code calls, in the order of the calls.
    pub(super) fn first_called(&mut self, code: &str, names: &[String]) -> Option<String> {
        let tree = self.parser.parse(code, None)?;
        let reader = Reader { code };
        let mut found = None;
        each(tree.root_node(), &mut |node| {
            if found.is_none() && node.kind() == "call" {
                found = reader
                    .field(node, "function")
                    .filter(|name| names.iter().any(|known| known == name))
                    .map(str::to_owned);
            }
        });
        found
    }
}

/// The named children of a node, without comments.
fn children(node: Node<'_>) -> Vec<Node<'_>> {
    let mut cursor = node.walk();
    node.named_children(&mut cursor).filter(|child| child.kind() != "comment").collect()
}

fn each<'t>(node: Node<'t>, visit: &mut impl FnMut(Node<'t>)) {
    visit(node);
    for child in children(node) {
        each(child, visit);
    }
}

struct Reader<'a> {
    code: &'a str,
}

/// A call of the function under test.
struct Call<'a> {
    function: &'a str,
    /// The arguments as a tuple.
    input: String,
}

impl<'a> Reader<'a> {
    fn text(&self, node: Node<'_>) -> &'a str {
        &self.code[node.byte_range()]
    }

    fn field(&self, node: Node<'_>, field: &str) -> Option<&'a str> {
        node.child_by_field_name(field).map(|child| self.text(child))
    }

    fn asserts(&self, statements: &[Node<'_>]) -> Option<Lowered> {
        let mut lowered: Option<Lowered> = None;
        for statement in statements {
            match statement.kind() {
                "pass_statement" => {}
                // A docstring.
                "expression_statement" if children(*statement).iter().all(|child| child.kind() == "string") => {}
                "assert_statement" => {
                    // The message behind the comma is never looked at.
                    let test = strip(*children(*statement).first()?);
                    if test.kind() == "true" {
                        continue;
                    }
                    let (call, case) = self.case(test)?;
                    let lowered = lowered
                        .get_or_insert_with(|| Lowered { function: call.function.to_owned(), cases: Vec::new() });
                    if lowered.function != call.function {
                        return None;
                    }
                    lowered.cases.push(Case { input: call.input, ..case });
                }
                _ => return None,
            }
        }
        lowered
    }

    /// The call and the case of one test; the case's input is still empty.
    fn case(&self, test: Node<'_>) -> Option<(Call<'a>, Case)> {
        let case = |output: String, check, tolerance| Case { input: String::new(), output, check, tolerance };
        match test.kind() {
            "call" => Some((self.call(test)?, case(String::new(), Check::Truthy, None))),
            "not_operator" => {
                let call = self.call(strip(test.child_by_field_name("argument")?))?;
                Some((call, case(String::new(), Check::Falsy, None)))
            }
            "comparison_operator" => {
                let operands = children(test);
                let [left, right] = operands.as_slice() else { return None };
                let (left, right) = (strip(*left), strip(*right));
                let operator = self.code[left.end_byte()..right.start_byte()]
                    .trim_matches(|c: char| c.is_whitespace() || "()".contains(c));
                match operator {
                    "==" => {
                        let (call, value) = match self.call(left) {
                            Some(call) => (call, right),
                            None => (self.call(right)?, left),
                        };
                        Some((call, case(self.literal(value)?.text(), Check::Equal, None)))
                    }
                    "is" if right.kind() == "none" => Some((self.call(left)?, case("None".into(), Check::Equal, None))),
                    "<" => {
                        let (call, value) = self.difference(left)?;
                        let tolerance = self.literal(right)?.number()?;
                        Some((call, case(value, Check::Close, Some(tolerance))))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// `abs(f(args) - value)`.
    fn difference(&self, node: Node<'_>) -> Option<(Call<'a>, String)> {
        if node.kind() != "call" || self.field(node, "function") != Some("abs") {
            return None;
        }
        let arguments = children(node.child_by_field_name("arguments")?);
        let [difference] = arguments.as_slice() else { return None };
        let difference = strip(*difference);
        if difference.kind() != "binary_operator" || self.field(difference, "operator") != Some("-") {
            return None;
        }
        let call = self.call(strip(difference.child_by_field_name("left")?))?;
        let value = self.literal(strip(difference.child_by_field_name("right")?))?;
        value.number()?;
        Some((call, value.text()))
    }

    fn call(&self, node: Node<'_>) -> Option<Call<'a>> {
        if node.kind() != "call" {
            return None;
        }
        let function = node.child_by_field_name("function")?;
        let arguments = node.child_by_field_name("arguments")?;
        if function.kind() != "identifier" || arguments.kind() != "argument_list" {
            return None;
        }
        let function = self.text(function);
        // Literals that look like calls, and functions of Python's own, are not what is tested.
        if matches!(
            function,
            "set"
                | "float"
                | "abs"
                | "frozenset"
                | "tuple"
                | "list"
                | "sorted"
                | "str"
                | "len"
                | "all"
                | "any"
                | "isinstance"
                | "round"
        ) {
            return None;
        }
        let items =
            children(arguments).into_iter().map(|item| Some(self.literal(item)?.text())).collect::<Option<Vec<_>>>()?;
        Some(Call { function, input: tuple(&items) })
    }

    fn literal(&self, node: Node<'_>) -> Option<Literal> {
        let items =
            |node| children(node).into_iter().map(|item| Some(self.literal(item)?.text())).collect::<Option<Vec<_>>>();
        let text = match node.kind() {
            "integer" => {
                let text = self.text(node);
                return Some(text.parse().map_or_else(|_| Literal::Other(text.to_owned()), Literal::Int));
            }
            "float" => {
                let text = self.text(node);
                return Some(
                    text.replace('_', "").parse().map_or_else(|_| Literal::Other(text.to_owned()), Literal::Float),
                );
            }
            "true" => "True".to_owned(),
            "false" => "False".to_owned(),
            "none" => "None".to_owned(),
            "string" => return self.string(node).map(Literal::Str),
            "concatenated_string" => {
                let parts = children(node).into_iter().map(|part| self.string(part)).collect::<Option<Vec<_>>>()?;
                return Some(Literal::Str(parts.join(" ")));
            }
            "parenthesized_expression" => return self.literal(strip(node)),
            "list" => format!("[{}]", items(node)?.join(", ")),
            "tuple" => tuple(&items(node)?),
            "set" => format!("{{{}}}", items(node)?.join(", ")),
            "dictionary" => {
                let pairs = children(node)
                    .into_iter()
                    .map(|pair| {
                        let key = self.literal(pair.child_by_field_name("key")?)?;
                        let value = self.literal(pair.child_by_field_name("value")?)?;
                        Some(format!("{}: {}", key.text(), value.text()))
                    })
                    .collect::<Option<Vec<_>>>()?;
                format!("{{{}}}", pairs.join(", "))
            }
            "unary_operator" => {
                let value = self.literal(strip(node.child_by_field_name("argument")?))?;
                return match (self.field(node, "operator")?, value) {
                    ("-", Literal::Int(value)) => Some(Literal::Int(value.checked_neg()?)),
                    ("-", Literal::Float(value)) => Some(Literal::Float(-value)),
                    ("+", value @ (Literal::Int(_) | Literal::Float(_))) => Some(value),
                    // A number beyond 64 bits, or an imaginary one.
                    ("-", Literal::Other(text)) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                        Some(Literal::Other(format!("-{text}")))
                    }
                    _ => None,
                };
            }
            "binary_operator" => {
                let left = self.literal(strip(node.child_by_field_name("left")?))?;
                let right = self.literal(strip(node.child_by_field_name("right")?))?;
                return arithmetic(left, self.field(node, "operator")?, right);
            }
            "call" => {
                let arguments = children(node.child_by_field_name("arguments")?);
                return match (self.field(node, "function")?, arguments.as_slice()) {
                    ("set", []) => Some(Literal::Other("set()".into())),
                    ("float", [argument]) => match self.text(*argument).trim_matches(['"', '\'']) {
                        "inf" | "infinity" | "+inf" => Some(Literal::Float(f64::INFINITY)),
                        "-inf" | "-infinity" => Some(Literal::Float(f64::NEG_INFINITY)),
                        _ => None,
                    },
                    _ => None,
                };
            }
            _ => return None,
        };
        Some(Literal::Other(text))
    }

    /// A string as it is written; nothing where it is computed.
    fn string(&self, node: Node<'_>) -> Option<String> {
        let text = self.text(node);
        let plain = node.kind() == "string" && children(node).iter().all(|part| part.kind() != "interpolation");
        let prefix = text.split(['"', '\'']).next()?;
        (plain && !prefix.contains(['f', 'F', 't', 'T'])).then(|| text.to_owned())
    }
}

/// A literal of a test.
#[derive(Debug, Clone, PartialEq)]
enum Literal {
    Int(i64),
    Float(f64),
    /// The text of one or more string literals.
    Str(String),
    /// Anything else, as text.
    Other(String),
}

impl Literal {
    fn text(&self) -> String {
        match self {
            Self::Int(value) => value.to_string(),
            // Python reads a number beyond the largest float as infinity, and has no literal for it.
            Self::Float(value) if value.is_infinite() => if *value > 0.0 { "1e999" } else { "-1e999" }.to_owned(),
            Self::Float(value) => format!("{value:?}"),
            Self::Str(text) | Self::Other(text) => text.clone(),
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Str(_) | Self::Other(_) => None,
        }
    }
}

/// Arithmetic of constants, where it is exact or what Python's floats give.
fn arithmetic(left: Literal, operator: &str, right: Literal) -> Option<Literal> {
    match (left, right) {
        (Literal::Int(a), Literal::Int(b)) => match operator {
            "+" => a.checked_add(b).map(Literal::Int),
            "-" => a.checked_sub(b).map(Literal::Int),
            "*" => a.checked_mul(b).map(Literal::Int),
            "**" => a.checked_pow(u32::try_from(b).ok()?).map(Literal::Int),
            // Beyond 53 bits the two roundings could differ from Python's one.
            "/" if b != 0 && a.abs().max(b.abs()) < 1 << 53 => Some(Literal::Float(a as f64 / b as f64)),
            _ => None,
        },
        (Literal::Str(a), Literal::Str(b)) if operator == "+" => Some(Literal::Str(format!("{a} {b}"))),
        (a @ (Literal::Int(_) | Literal::Float(_)), b @ (Literal::Int(_) | Literal::Float(_))) => {
            let (a, b) = (a.number()?, b.number()?);
            match operator {
                "+" => Some(Literal::Float(a + b)),
                "-" => Some(Literal::Float(a - b)),
                "*" => Some(Literal::Float(a * b)),
                "/" if b != 0.0 => Some(Literal::Float(a / b)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A node without the brackets around it.
fn strip(node: Node<'_>) -> Node<'_> {
    match (node.kind(), children(node).as_slice()) {
        ("parenthesized_expression", [inner]) => strip(*inner),
        _ => node,
    }
}

/// A tuple of these; one item keeps its comma.
pub(super) fn tuple(items: &[String]) -> String {
    if let [item] = items { format!("({item},)") } else { format!("({})", items.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(code: &str) -> Option<Vec<(String, String, Check)>> {
        let cases = AssertReader::new().asserts(code)?.cases;
        Some(cases.into_iter().map(|case| (case.input, case.output, case.check)).collect())
    }

    fn one(code: &str) -> (String, String) {
        let (input, output, check) = lowered(code).unwrap_or_else(|| panic!("{code}")).remove(0);
        assert_eq!(check, Check::Equal, "{code}");
        (input, output)
    }

    #[test]
    fn each_form_becomes_its_case() {
        let code = "assert f(1) == 2, 'message'\nassert [3] == f()\nassert f('a', [1, -2.50])\nassert not f({})\nassert (f(x_ := 1)) if 0 else 1\n";
        assert_eq!(lowered(code), None);
        let code = "\"doc\"\nassert f(1) == 2, 'message'\nassert [3] == f()\nassert f('a', [1, -2.50])\nassert not f({})  # why\nassert True\nassert f(None) is None\nassert abs(f(4) - 0.5) < 1e-6\n";
        let cases = AssertReader::new().asserts(code).unwrap().cases;
        let shown: Vec<String> = cases
            .iter()
            .map(|case| format!("{} {:?} {} {:?}", case.input, case.check, case.output, case.tolerance))
            .collect();
        assert_eq!(
            shown,
            [
                "(1,) Equal 2 None",
                "() Equal [3] None",
                "('a', [1, -2.5]) Truthy  None",
                "({},) Falsy  None",
                "(None,) Equal None None",
                "(4,) Close 0.5 Some(1e-6)"
            ]
        );
    }

    #[test]
    fn literals_are_written_anew() {
        for (written, expected) in [
            ("(1,)", "(1,)"),
            ("()", "()"),
            ("{1, 2}", "{1, 2}"),
            ("{'a': (1, 2), # note\n 3: []}", "{'a': (1, 2), 3: []}"),
            ("set()", "set()"),
            ("float('inf')", "1e999"),
            ("-float(\"inf\")", "-1e999"),
            ("2.0/3.0", "0.6666666666666666"),
            ("3 + 5 * (7 - 2) ** 2", "128"),
            ("'a' 'b' + 'c'", "'a' 'b' 'c'"),
            ("r'\\d'", "r'\\d'"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("-123456789012345678901234567890", "-123456789012345678901234567890"),
            ("1_000", "1_000"),
            ("0x1F", "0x1F"),
            ("1j", "1j"),
        ] {
            assert_eq!(
                one(&format!("assert f({written}) == {written}")),
                (format!("({expected},)"), expected.to_owned())
            );
        }
    }

    #[test]
    fn what_is_not_a_literal_assert_stays() {
        for code in [
            "assert f(1) is True",
            "assert f(1) != 2",
            "assert f(x) == 2",
            "assert f(k=1) == 2",
            "assert f(*[1]) == 2",
            "assert f(f\"{1}\") == 2",
            "assert f(1) == g(1)",
            "assert sorted(f(1)) == [1]",
            "assert f(1) == 1 == 1",
            "assert f([i for i in range(3)]) == 2",
            "assert f(1) == 1\nassert g(1) == 1",
            "assert abs(f(1) - 2) <= 1",
            "for i in range(3):\n    assert f(1) == 1",
            "assert f(9 ** 99) == 1",
            "x = 1",
            "assert f(1 == ",
            "assert o.f(1) == 1",
        ] {
            assert_eq!(lowered(code), None, "{code}");
        }
    }

    #[test]
    fn only_the_candidate_of_a_check_function_counts() {
        let code =
            "META = {}\n\ndef check(candidate):\n    # easy\n    assert candidate(1) == 2\n    assert True, 'prints'\n";
        assert_eq!(AssertReader::new().check_function(code).unwrap().len(), 1);
        assert_eq!(AssertReader::new().check_function(&code.replace("candidate(1)", "other(1)")), None);
        assert_eq!(AssertReader::new().check_function("assert f(1) == 2"), None);
    }
}
