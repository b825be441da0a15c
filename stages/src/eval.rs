//! `eval`: how well a model solves problems. Short for `generate` + `execute` + `score`.
//!
//! The three are stages of their own, named `<use>/generate` and `<use>/execute`, so a changed time limit never generates again,
//! and no device is held while programs run. The use itself is the `score`: `metrics`, and `outcomes` by problem.

use crate::code::prompts::Asked;
use crate::columns::{Metric, Outcome, columns_of};
use crate::generate;
use crate::job::{Job, OpenContext};
use crate::stage::{
    AddedStage, Declaration, Expansion, InputPort, InputSchemas, OutputPort, SchemaError, Source, Stage, StageError,
    UseSite,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Eval;

/// Parameters of `eval`: those of the three kinds that it is short for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Parameters of `generate`: one greedy sample a problem unless said otherwise.
    pub generate: generate::Params,
    /// Parameters of `execute`.
    pub execute: Map<String, Value>,
    /// Parameters of `score`.
    pub score: Map<String, Value>,
}

impl Stage for Eval {
    type Params = Params;
    const NAME: &'static str = "eval";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Measures how many problems a model solves: `generate`, `execute` and `score` in one.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/heldout.jsonl, limit: 12 } }
base: { use: model, with: { path: ../examples/models/tiny } }
before: { use: eval, from: { problems: problems, model: base }, with: { generate: { max_tokens: 64 } } }
";

    fn declare(_params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        // What the use as a whole reads and gives, for whoever connects it; the stages it stands for declare their own.
        let problems = InputPort::table::<Asked>("problems", "the problems to solve, with tests");
        let model = InputPort::model("model", "who solves them");
        let metrics = OutputPort::table("metrics", columns_of::<Metric>(), "pass@k and the rates of the verdicts");
        let outcomes = OutputPort::table("outcomes", columns_of::<Outcome>(), "how each problem was answered");
        Ok(Declaration::whole(vec![problems, model], vec![metrics, outcomes]))
    }

    fn expand(params: &Params, _site: &UseSite) -> Option<Expansion> {
        let given = |port| (String::from(port), Source::Given(port));
        let added = |port: &str, suffix| (port.to_owned(), Source::Added { suffix, port: None });
        let with = serde_json::to_value(&params.generate).expect("parameters came from JSON and go back to it");
        Some(Expansion {
            added: vec![
                AddedStage {
                    suffix: "generate",
                    kind: "generate",
                    with,
                    from: BTreeMap::from([given("problems"), given("model")]),
                },
                AddedStage {
                    suffix: "execute",
                    kind: "execute",
                    with: Value::Object(params.execute.clone()),
                    from: BTreeMap::from([added("programs", "generate"), given("problems")]),
                },
            ],
            kind: "score",
            with: Value::Object(params.score.clone()),
            from: BTreeMap::from([added("verdicts", "execute"), given("problems")]),
        })
    }

    fn open(_params: &Params, _cx: &OpenContext) -> Result<Job, StageError> {
        Err(StageError::failed("`eval` stands for other stages and is not run itself; this is a bug of the resolver"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::AnyStage;
    use serde_json::json;

    #[test]
    fn eval_is_generate_execute_and_score() {
        let with = json!({ "generate": { "samples": 4, "temperature": 0.8 }, "execute": { "cpu_limit_s": 2 } });
        let expansion = Eval.bind(with).unwrap().expand(&UseSite { connected: vec![] }).unwrap();
        assert_eq!(expansion.kind, "score");
        assert_eq!(expansion.added[0].with["samples"], 4);
        assert_eq!(expansion.added[1].with, json!({ "cpu_limit_s": 2 }));
        assert_eq!(expansion.from["verdicts"], Source::Added { suffix: "execute", port: None });
        assert_eq!(expansion.from["problems"], Source::Given("problems"));
    }

    #[test]
    fn unknown_parameters_are_refused_with_their_place() {
        let error = Eval.bind(json!({ "generate": { "sample": 4 } })).err().unwrap();
        assert_eq!(error.path, "generate.sample");
    }
}
