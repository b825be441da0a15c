//! Conditions on a row: the expressions of `filter where` and of `ablate show --where`.
//!
//! The language is Jinja's. A name is a column of the row; `solution` is the first of `solutions` in a table that has no
//! such column itself. A name that is no column is a mistake, told before any row is read.

use crate::stage::StageError;
use arrow::array::RecordBatch;
use minijinja::{Environment, Expression, UndefinedBehavior, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The column that `solution` is short for the first item of.
const SOLUTIONS: &str = "solutions";
const SOLUTION: &str = "solution";

/// An expression that is true or false of a row.
#[derive(Debug)]
pub struct Condition {
    text: String,
    /// The names that it takes from a row.
    names: BTreeSet<String>,
    environment: Environment<'static>,
}

/// What is wrong with a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// It is no expression.
    #[error("expected an expression, got `{text}`: {problem}")]
    Broken {
        /// As written.
        text: String,
        /// The parser's words.
        problem: String,
        /// The bytes concerned, where the parser says.
        at: Option<Range<usize>>,
    },
    /// It names something that is no column.
    #[error("expected columns among {}, got `{name}`", columns.join(", "))]
    UnknownColumn {
        /// The name.
        name: String,
        /// The bytes where it stands first.
        at: Option<Range<usize>>,
        /// The columns there are.
        columns: Vec<String>,
    },
}

impl Condition {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`ConditionError::Broken`].
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        let mut environment = Environment::new();
        // An absent value is a mistake, not a silent false.
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let names = {
            let compiled = environment.compile_expression(text).map_err(|error| ConditionError::Broken {
                text: text.into(),
                problem: error.detail().map_or_else(|| error.to_string(), str::to_owned),
                at: error.range(),
            })?;
            let known: BTreeSet<&str> = environment.globals().map(|(name, _)| name).collect();
            let mut names: BTreeSet<String> = compiled.undeclared_variables(false).into_iter().collect();
            names.retain(|name| !known.contains(name.as_str()));
            names
        };
        Ok(Self { text: text.into(), names, environment })
    }

    /// Checks that every name is a column.
    ///
    /// # Errors
    /// [`ConditionError::UnknownColumn`], for the first that is none.
    pub fn check<'a>(&self, columns: impl Iterator<Item = &'a str> + Clone) -> Result<(), ConditionError> {
        let has = |name: &str| columns.clone().any(|column| column == name);
        let is_there = |name: &str| has(name) || (name == SOLUTION && has(SOLUTIONS));
        match self.names.iter().find(|name| !is_there(name)) {
            None => Ok(()),
            Some(name) => Err(ConditionError::UnknownColumn {
                name: name.clone(),
                at: place_of(name, &self.text),
                columns: columns.map(str::to_owned).collect(),
            }),
        }
    }

    /// The rows of a table, as far as the condition looks at them.
    ///
    /// # Errors
    /// Where a column cannot be read.
    pub fn rows(&self, table: &RecordBatch) -> Result<Vec<Row>, StageError> {
        let wants_alias = self.names.contains(SOLUTION) && table.schema_ref().index_of(SOLUTION).is_err();
        let seen: Vec<usize> = (table.schema_ref().fields().iter().enumerate())
            .filter(|(_, field)| self.names.contains(field.name()) || (wants_alias && field.name() == SOLUTIONS))
            .map(|(at, _)| at)
            .collect();
        if seen.is_empty() || table.num_rows() == 0 {
            return Ok(vec![Row { values: BTreeMap::new(), has_alias: false }; table.num_rows()]);
        }
        let values: Vec<BTreeMap<String, Value>> = serde_arrow::from_record_batch(&table.project(&seen)?)?;
        Ok(values.into_iter().map(|values| Row::new(values, wants_alias)).collect())
    }

    /// The expression, ready to be asked of many rows.
    ///
    /// # Errors
    /// None is expected of an expression that was read once.
    pub fn ready(&self) -> Result<Ready<'_>, StageError> {
        let expression = self.environment.compile_expression(&self.text);
        Ok(Ready(expression.map_err(|error| StageError::failed(error.to_string()))?))
    }
}

/// A condition that is ready to be asked.
#[derive(Debug)]
pub struct Ready<'a>(Expression<'a, 'a>);

impl Ready<'_> {
    /// Whether the condition is true of a row.
    ///
    /// # Errors
    /// In words, where it has no answer: the length of nothing, or a comparison of text with a number.
    pub fn holds(&self, row: &Row) -> Result<bool, String> {
        match self.0.eval(Value::from_pairs(row.values.clone())) {
            Ok(value) => Ok(value.is_true()),
            Err(error) => Err(error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)),
        }
    }
}

/// The values of a row that a condition names.
#[derive(Debug, Clone)]
pub struct Row {
    values: BTreeMap<String, Value>,
    /// Whether `solution` is the first of `solutions`.
    has_alias: bool,
}

impl Row {
    fn new(values: BTreeMap<String, Value>, has_alias: bool) -> Self {
        let mut row = Self { values, has_alias };
        if has_alias {
            let first = row.values.get(SOLUTIONS).and_then(|solutions| solutions.get_item_by_index(0).ok());
            let first = first.filter(|first| !first.is_undefined()).unwrap_or(Value::from(()));
            row.values.insert(SOLUTION.into(), first);
        }
        row
    }

    /// Makes the condition see these solutions, and no others.
    pub fn set_solutions(&mut self, kept: &[&str]) {
        if let Some(solutions) = self.values.get_mut(SOLUTIONS) {
            *solutions = Value::from_iter(kept.iter().copied());
        }
        if self.has_alias {
            let first = kept.first().map_or(Value::from(()), |&first| Value::from(first));
            self.values.insert(SOLUTION.into(), first);
        }
    }
}

/// Where a name stands in an expression: outside quotes, whole, and not behind a dot.
fn place_of(name: &str, text: &str) -> Option<Range<usize>> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if text[at..].starts_with(name) => {
                let (before, after) = (&text[..at], &text[at + name.len()..]);
                let is_whole = !before.ends_with(|c| is_part(c) || c == '.') && !after.starts_with(is_part);
                if is_whole {
                    return Some(at..at + name.len());
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_expression_says_where() {
        let Err(ConditionError::Broken { at: Some(at), .. }) = Condition::parse("a == 'x') and b") else {
            panic!("a parenthesis too many is no expression");
        };
        assert_eq!(&"a == 'x') and b"[at], ")");
    }

    #[test]
    fn an_unknown_column_is_found_where_it_is_meant() {
        let place = |name: &str, text: &str| place_of(name, text).map(|at| at.start);
        assert_eq!(place("verdict", "'verdict' == verdict"), Some(13));
        assert_eq!(place("style", "tests.style == mystyle and style"), Some(27));
        assert_eq!(place("ä", "'ä' ~ ä"), Some(7));
        let columns = ["verdict", "solutions"];
        let check = |text: &str| Condition::parse(text).unwrap().check(columns.into_iter());
        assert!(check("solution|length < 3 and verdict in ['a'] and range(3)").is_ok());
        let error = check("verdict == 'a' or verdcit").unwrap_err();
        assert_eq!(error.to_string(), "expected columns among verdict, solutions, got `verdcit`");
        assert!(matches!(error, ConditionError::UnknownColumn { at: Some(at), .. } if at == (18..25)));
    }
}
