//! A handful of kinds for the tests of pipelines, so that their messages do not change with every kind that is added.

use ablate_stages::columns::{Block, Metric, Problem, Sample, columns_of};
use ablate_stages::stage::{
    AddedStage, AnyStage, Declaration, Expansion, InputPath, InputPort, InputSchemas, OutputPort, SchemaError, Source,
    Stage, UseSite,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// The kinds.
pub(crate) const KINDS: &[&dyn AnyStage] =
    &[&Load, &Model, &Filter, &Segment, &FimGenerate, &Train, &Eval, &Generate, &Score];

macro_rules! kind {
    ($type:ident, $name:literal, $params:ty, |$with:ident, $inputs:ident| $declare:expr) => {
        pub(crate) struct $type;
        impl Stage for $type {
            type Params = $params;
            const NAME: &'static str = $name;
            const VERSION: u32 = 1;
            const ABOUT: &'static str = "For tests.";
            const EXAMPLE: &'static str = concat!("it: { use: ", $name, " }");
            fn declare($with: &Self::Params, $inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
                $declare
            }
        }
    };
}

/// A path.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PathParams {
    /// What is read.
    path: InputPath,
}

/// Nothing.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParams {}

/// What is kept.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilterParams {
    /// A column that must be there.
    #[serde(default)]
    column: Option<String>,
}

/// Which blocks.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SegmentParams {
    /// Kinds of blocks.
    kinds: Vec<BlockKind>,
}

/// A kind of block.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum BlockKind {
    If,
    For,
    While,
}

/// How to sample.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GenerateParams {
    /// Samples a block.
    #[serde(default = "five")]
    #[schemars(range(min = 1))]
    samples: u32,
    /// Temperature; 0 is greedy.
    #[serde(default)]
    temperature: f64,
    /// Seed of the sampling.
    #[serde(default)]
    seed: Option<u64>,
    /// What opens a question.
    #[serde(default)]
    system: Option<String>,
}

fn five() -> u32 {
    5
}

/// How to train.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainParams {
    /// What is minimised.
    objective: Objective,
    /// Learning rate.
    #[serde(default)]
    learning_rate: Option<f64>,
}

/// What is minimised.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Objective {
    /// Supervised.
    Sft {},
    /// Preferences.
    Dpo {
        /// Strength.
        beta: f64,
    },
}

kind!(Load, "load", PathParams, |_params, _inputs| Ok(Declaration::whole(
    vec![],
    vec![OutputPort::table("rows", columns_of::<Problem>(), "problems")]
)));
kind!(Model, "model", PathParams, |_params, _inputs| Ok(Declaration::whole(
    vec![],
    vec![OutputPort::model("model", "a model")]
)));
kind!(Segment, "segment", SegmentParams, |_params, _inputs| Ok(Declaration::map(
    vec![InputPort::rows::<Problem>("problems", "what is cut")],
    OutputPort::table("blocks", columns_of::<Block>(), "blocks")
)));
kind!(FimGenerate, "fim-generate", GenerateParams, |_params, _inputs| Ok(Declaration::map(
    vec![
        InputPort::rows::<Block>("blocks", "the holes to fill"),
        InputPort::lookup::<Problem>("problems", "problem_id", "the questions"),
        InputPort::model("model", "what fills them"),
    ],
    OutputPort::table("samples", columns_of::<Sample>(), "samples")
)));
kind!(Train, "train", TrainParams, |_params, _inputs| Ok(Declaration::whole(
    vec![InputPort::table::<Sample>("examples", "what is learnt"), InputPort::model("model", "what learns")],
    vec![
        OutputPort::model("model", "the trained model"),
        OutputPort::table("metrics", columns_of::<Metric>(), "the run")
    ]
)));
kind!(Generate, "generate", NoParams, |_params, _inputs| Ok(Declaration::map(
    vec![InputPort::rows::<Problem>("problems", "questions"), InputPort::model("model", "who answers")],
    OutputPort::table("samples", columns_of::<Sample>(), "samples")
)));
kind!(Score, "score", NoParams, |_params, _inputs| Ok(Declaration::whole(
    vec![InputPort::table::<Sample>("samples", "answers")],
    vec![OutputPort::table("metrics", columns_of::<Metric>(), "figures")]
)));

pub(crate) struct Filter;
impl Stage for Filter {
    type Params = FilterParams;
    const NAME: &'static str = "filter";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "For tests.";
    const EXAMPLE: &'static str = "";
    fn declare(params: &FilterParams, inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        let columns = inputs.get("rows");
        if let (Some(column), Some(columns)) = (&params.column, columns)
            && !columns.iter().any(|found| found.name == *column)
        {
            return Err(SchemaError::parameter("column", format!("the table has no column `{column}`")));
        }
        let output = OutputPort::table("rows", columns.cloned().unwrap_or_default(), "what is kept");
        Ok(Declaration::map(vec![InputPort::rows::<Nothing>("rows", "rows").all_columns()], output))
    }
}

/// No column at all.
#[derive(Deserialize, JsonSchema)]
struct Nothing {}

pub(crate) struct Eval;
impl Stage for Eval {
    type Params = NoParams;
    const NAME: &'static str = "eval";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "For tests.";
    const EXAMPLE: &'static str = "";
    fn declare(_params: &NoParams, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        Ok(Declaration::whole(
            vec![InputPort::table::<Problem>("problems", "questions"), InputPort::model("model", "who answers")],
            vec![OutputPort::table("metrics", columns_of::<Metric>(), "figures")],
        ))
    }
    fn expand(_params: &NoParams, _site: &UseSite) -> Option<Expansion> {
        let given = |port| (String::from(port), Source::Given(port));
        Some(Expansion {
            added: vec![AddedStage {
                suffix: "generate",
                kind: "generate",
                with: json!({}),
                from: BTreeMap::from([given("problems"), given("model")]),
            }],
            kind: "score",
            with: json!({}),
            from: BTreeMap::from([("samples".into(), Source::Added { suffix: "generate", port: None })]),
        })
    }
}
