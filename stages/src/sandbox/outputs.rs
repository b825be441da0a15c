//! What a trusted solution returns: the outputs of its calls, to be what is expected of others.

use super::judge::early_end;
use super::records::{Listener, Record};
use super::{Limits, Sandbox, SandboxError};
use crate::code::literal::Value;
use serde_json::json;

/// What the calls of a function returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outputs {
    /// The values as Python literals, in the order of the inputs.
    Values(Vec<String>),
    /// A call that did not return.
    Failed {
        /// Its place, from 0; none where the program itself failed.
        call: Option<usize>,
        /// What became of it, in a line.
        problem: String,
    },
    /// A call that returned what equals nothing, not even itself: an object of no built-in type, or NaN.
    Incomparable {
        /// Its place, from 0.
        call: usize,
        /// What was returned.
        value: String,
    },
}

impl Sandbox {
    /// Calls a function of a program with each of these inputs, Python literal tuples, and returns what came back. Ends at the
    /// first call that gives no value. Every call has the whole of the limits.
    ///
    /// # Errors
    /// Where the program could not be run; whatever it does wrong is an [`Outputs`].
    pub fn outputs(
        &mut self,
        source: &str,
        entry_point: &str,
        inputs: &[&str],
        limits: &Limits,
    ) -> Result<Outputs, SandboxError> {
        let (values, num_calls) = (Vec::with_capacity(inputs.len()), inputs.len());
        let mut returned = Returned { values, num_calls, start: 0, bad_end: None };
        while returned.values.len() < inputs.len() {
            let start = returned.values.len();
            returned.start = start;
            let request = json!({
                "mode": "call", "program": source, "entry_point": entry_point, "inputs": &inputs[start..], "start": start,
            });
            let ran = self.listen(&request, limits, &mut returned)?;
            if let Some(bad_end) = returned.bad_end {
                return Ok(bad_end);
            }
            let call = returned.values.len();
            // A limit that was reached with earlier calls behind it says nothing of this one.
            if call < inputs.len() && call == start {
                let problem = early_end(&ran, limits).map_or_else(
                    || format!("ended by itself with exit code {} before it returned", ran.exit.unwrap_or(-1)),
                    |(_, problem)| problem,
                );
                return Ok(Outputs::Failed { call: Some(call), problem });
            }
        }
        Ok(Outputs::Values(returned.values))
    }
}

/// What calls have returned so far.
struct Returned {
    values: Vec<String>,
    /// How many values there are to be.
    num_calls: usize,
    /// The first call of the process that runs.
    start: usize,
    bad_end: Option<Outputs>,
}

impl Listener for Returned {
    fn begin(&mut self) {
        self.values.truncate(self.start);
        self.bad_end = None;
    }

    fn hear(&mut self, record: Record) -> bool {
        let call = self.values.len();
        match record.kind {
            b'R' if record.index == call as i64 => match Value::parse_encoded(&record.text) {
                Ok(value) if value.py_eq(&value) => self.values.push(record.text),
                _ => self.bad_end = Some(Outputs::Incomparable { call, value: record.text }),
            },
            b'E' | b'M' | b'O' | b'T' => {
                let call = usize::try_from(record.index).ok();
                self.bad_end = Some(Outputs::Failed { call, problem: record.text });
            }
            _ => {}
        }
        self.bad_end.is_none() && self.values.len() < self.num_calls
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn outputs(source: &str, inputs: &[&str]) -> Outputs {
        let limits = Limits { cpu_s: 1.0, ..Limits::default() };
        let mut sandbox = Sandbox::open(Config::default()).expect("a sandbox opens");
        sandbox.outputs(source, "f", inputs, &limits).expect("the program runs")
    }

    #[test]
    fn every_call_gives_its_value_as_a_literal() {
        let found = outputs("def f(x, y=2):\n    return [x, {y}, 1e999]", &["(1,)", "('a', 3)"]);
        assert_eq!(found, Outputs::Values(vec!["[1, {2}, float('inf')]".into(), "['a', {3}, float('inf')]".into()]));
        assert_eq!(outputs("def f(): pass", &[]), Outputs::Values(vec![]));
    }

    #[test]
    fn each_call_has_the_whole_time() {
        let source = "import time\ndef f(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n    return s";
        let found = outputs(source, &["(0.6,)", "(0.6,)", "(0.6,)"]);
        assert_eq!(found, Outputs::Values(vec!["0.6".into(); 3]));
        let Outputs::Failed { call: Some(1), problem } = outputs(source, &["(0.1,)", "(9,)"]) else {
            panic!("the second call takes too long")
        };
        assert!(problem.contains("1 s of CPU time"), "{problem}");
    }

    #[test]
    fn what_fails_or_cannot_be_compared_is_named() {
        let Outputs::Failed { call: Some(1), problem } = outputs("def f(x): return 1 // x", &["(1,)", "(0,)"]) else {
            panic!("the second call divides by zero")
        };
        assert!(problem.starts_with("ZeroDivisionError"), "{problem}");
        assert!(matches!(outputs("def f(:", &["()"]), Outputs::Failed { call: None, .. }));
        assert!(matches!(outputs("import os\ndef f(): os._exit(0)", &["()"]), Outputs::Failed { call: Some(0), .. }));
        for (source, value) in [("def f(): return [object()]", "object"), ("def f(): return float('nan')", "nan")] {
            let Outputs::Incomparable { call: 0, value: found } = outputs(source, &["()"]) else { panic!("{source}") };
            assert!(found.contains(value), "{found}");
        }
    }
}
