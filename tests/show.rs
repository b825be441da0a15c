//! `ablate show --where`, with the expressions of `filter`.

use crate::lab::Lab;
use crate::run::lab;

/// The rows of a stage that meet a condition, as JSON lines.
fn rows(lab: &Lab, stage: &str, condition: &str) -> Vec<String> {
    let arguments = ["show", "small.yaml", stage, "--rows", "100000", "--format", "json", "--where", condition];
    let mut rows: Vec<String> = lab.ok(&arguments).stdout.lines().map(str::to_owned).collect();
    rows.sort();
    rows
}

#[test]
fn a_condition_shows_the_rows_that_filter_would_keep() {
    let lab = lab();
    lab.run("small.yaml", &[]);
    // `clean` keeps solutions shorter than 600 characters.
    assert_eq!(rows(&lab, "problems", "solution|length < 600"), lab.rows("small.yaml", "clean"));
    let (loops, others) = (rows(&lab, "blocks", "kind == 'for'"), rows(&lab, "blocks", "kind in ['if', 'full']"));
    assert!(!loops.is_empty() && !others.is_empty());
    assert_eq!(loops.len() + others.len(), lab.rows("small.yaml", "blocks").len());
}

#[test]
fn matches_are_counted_beyond_the_rows_that_are_shown() {
    let lab = lab();
    lab.run("small.yaml", &[]);
    let all = lab.rows("small.yaml", "blocks").len();
    let loops = rows(&lab, "blocks", "kind == 'for'").len();
    let shown = ["show", "small.yaml", "blocks", "--where", "kind == 'for'", "--rows", "2", "--columns", "num_lines"];
    let ran = lab.ok(&shown);
    assert!(
        ran.stderr.contains(&format!("2 of {loops} rows that meet the condition, of {all} in all")),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains("num_lines") && !ran.stdout.contains("kind"), "{}", ran.stdout);
    let none = lab.ok(&["show", "small.yaml", "blocks", "--where", "num_lines < 0"]);
    assert!(none.stdout.contains("block_id"), "the columns are shown all the same: {}", none.stdout);
    assert!(none.stderr.contains("0 of 0 rows"), "{}", none.stderr);
}

#[test]
fn an_unknown_column_is_underlined_with_the_nearest_one() {
    let lab = lab();
    lab.run("small.yaml", &[]);
    let ran = lab.ablate(&["show", "small.yaml", "blocks", "--where", "kind == 'for' and num_line > 3"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    for words in ["unknown column `num_line` of `blocks`", "--where:1:19", "────", "did you mean `num_lines`?"]
    {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let ran = lab.ablate(&["show", "small.yaml", "blocks", "--columns", "knd"]);
    assert!(ran.stderr.contains("did you mean `kind`?"), "{}", ran.stderr);
}

#[test]
fn a_broken_expression_and_a_row_without_an_answer_are_told() {
    let lab = lab();
    lab.run("small.yaml", &[]);
    let ran = lab.ablate(&["show", "small.yaml", "blocks", "--where", "kind == "]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("not an expression") && ran.stderr.contains("--where:1:"), "{}", ran.stderr);
    let ran = lab.ablate(&["show", "small.yaml", "problems", "--where", "difficulty|length > 3"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("for row 1: "), "{}", ran.stderr);
}
