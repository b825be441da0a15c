//! What every kind must keep, over the one list of kinds.

use crate::lab::Lab;
use ablate_stages::STAGES;
use ablate_stages::stage::AnyStage;

#[test]
fn the_example_of_every_kind_has_no_mistakes() {
    let lab = Lab::new();
    for kind in STAGES {
        let name = format!("{}.yaml", kind.name());
        lab.write(&name, &example_pipeline(*kind));
        let ran = lab.ablate(&["check", &name]);
        // Files and models that an example names need not be there: that is a note, not a mistake.
        assert!(matches!(ran.code, 0 | 5), "{}:\n{}\n{}", kind.name(), kind.example(), ran.stderr);
    }
}

#[test]
fn every_parameter_of_every_kind_is_explained() {
    for kind in STAGES {
        let schema = serde_json::to_value(kind.params_schema()).expect("a schema is JSON");
        for (name, parameter) in schema["properties"].as_object().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{}.{name} has no doc comment", kind.name());
        }
        assert!(!kind.about().is_empty(), "{}", kind.name());
    }
}

/// The example of a kind as a pipeline file.
pub(crate) fn example_pipeline(kind: &dyn AnyStage) -> String {
    format!("name: example\nstages:\n{}\n", indent(kind.example()))
}

fn indent(example: &str) -> String {
    let lines: Vec<&str> = example.lines().filter(|line| line.trim() != "stages:").collect();
    let least =
        lines.iter().filter(|l| !l.trim().is_empty()).map(|l| l.len() - l.trim_start().len()).min().unwrap_or(0);
    lines.iter().map(|line| format!("  {}\n", line.get(least..).unwrap_or_default())).collect()
}
