//! `ablate query`: with the feature `sql` what it answers, without it what it says.

use crate::run::lab;

#[cfg(not(feature = "sql"))]
#[test]
fn without_the_feature_it_says_how_to_get_it_and_where_the_tables_lie() {
    let lab = lab();
    lab.run("small.yaml", &[]);
    let ran = lab.ablate(&["query", "small.yaml", "SELECT * FROM problems"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (5, ""), "{}", ran.stderr);
    let latest = lab.path("cache/runs/latest");
    for words in ["cargo build --release --features sql", &format!("{}/<stage>", latest.display()), "pyarrow"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    assert!(latest.join("problems/part-00000.parquet").is_file());
}

#[cfg(feature = "sql")]
mod with_sql {
    use super::lab;
    use crate::lab::{Lab, Ran};
    use serde_json::Value;
    use std::collections::BTreeMap;

    fn query(lab: &Lab, sql: &str, more: &[&str]) -> Ran {
        lab.ablate(&[&["query", "small.yaml", sql], more].concat())
    }

    fn rows(lab: &Lab, sql: &str) -> Vec<Value> {
        let ran = query(lab, sql, &["--format", "json"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("a line is a row")).collect()
    }

    fn shown(lab: &Lab, stage: &str) -> Vec<Value> {
        lab.rows("small.yaml", stage).iter().map(|line| serde_json::from_str(line).expect("a row")).collect()
    }

    #[test]
    fn a_join_of_two_stages_and_its_aggregate_are_what_show_gives() {
        let lab = lab();
        lab.run("small.yaml", &[]);
        let found = rows(
            &lab,
            "SELECT p.difficulty, b.kind, count(*) AS blocks, sum(b.num_lines) AS lines, max(character_length(p.question)) AS longest
             FROM blocks b JOIN problems p ON b.problem_id = p.problem_id GROUP BY 1, 2 ORDER BY 1, 2",
        );
        let problems = shown(&lab, "problems");
        let by_id: BTreeMap<&str, &Value> =
            problems.iter().map(|problem| (problem["problem_id"].as_str().expect("an id"), problem)).collect();
        let mut wanted: BTreeMap<(String, String), [u64; 3]> = BTreeMap::new();
        for block in shown(&lab, "blocks") {
            let problem = by_id[block["problem_id"].as_str().expect("an id")];
            let text = |value: &Value| value.as_str().unwrap_or("~").to_owned();
            let sums = wanted.entry((text(&problem["difficulty"]), text(&block["kind"]))).or_default();
            sums[0] += 1;
            sums[1] += block["num_lines"].as_u64().expect("a number");
            sums[2] = sums[2].max(text(&problem["question"]).chars().count() as u64);
        }
        assert!(wanted.len() > 1, "{wanted:?}");
        let found: BTreeMap<(String, String), [u64; 3]> = found
            .iter()
            .map(|row| {
                let text = |name: &str| row[name].as_str().unwrap_or("~").to_owned();
                let number = |name: &str| row[name].as_u64().expect("a number");
                ((text("difficulty"), text("kind")), [number("blocks"), number("lines"), number("longest")])
            })
            .collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_whole_table_is_the_same_as_shown_and_so_are_ports_and_variants() {
        let lab = lab();
        let more = "variants:\n  long-only: { clean.where: 'solution|length > 300' }\n";
        let text = std::fs::read_to_string(lab.path("small.yaml")).expect("it was written");
        lab.write("small.yaml", &format!("{text}{more}"));
        lab.run("small.yaml", &["--all"]);
        for (sql, stage) in [
            ("SELECT * FROM problems", "problems"),
            // `logprob` is measured.
            ("SELECT * FROM programs", "programs"),
            ("SELECT * FROM \"clean.dropped\"", "clean.dropped"),
            ("SELECT * FROM clean.dropped", "clean.dropped"),
        ] {
            let mut found = rows(&lab, sql);
            found.sort_by_key(Value::to_string);
            let mut wanted = shown(&lab, stage);
            wanted.sort_by_key(Value::to_string);
            assert_eq!(found, wanted, "{sql}");
        }
        let sql = "SELECT count(*) AS n FROM clean c JOIN \"clean@long-only\" USING (problem_id)";
        let ran = query(&lab, sql, &["--all", "--format", "json"]);
        let (short, long) = ("solution|length < 600", "solution|length > 300");
        let arguments = ["show", "small.yaml", "problems", "--rows", "1000", "--format", "json", "--where"];
        let both = format!("{short} and {long}");
        let wanted = lab.ok(&[&arguments[..], &[&both]].concat()).stdout.lines().count();
        assert_eq!(ran.stdout, format!("{{\"n\":{wanted}}}\n"), "{}", ran.stderr);
    }

    #[test]
    fn as_text_rows_are_limited_and_counted() {
        let lab = lab();
        lab.run("small.yaml", &["problems"]);
        let all = shown(&lab, "problems").len();
        let sql = "SELECT problem_id, question FROM problems";
        let ran = query(&lab, sql, &["--rows", "2"]);
        assert_eq!(ran.stderr.trim_end(), format!("2 of {all} rows"));
        assert_eq!(ran.stdout.lines().filter(|line| line.starts_with('│')).count(), 1 + 2, "{}", ran.stdout);
        let none = query(&lab, &format!("{sql} WHERE false"), &[]);
        assert!(none.stdout.contains("problem_id") && none.stderr.contains("0 of 0 rows"), "{}", none.stdout);
        assert_eq!(rows(&lab, sql).len(), all);
    }

    #[test]
    fn mistakes_are_told_by_their_kind() {
        let lab = lab();
        lab.run("small.yaml", &["problems"]);
        for (sql, code, words) in [
            ("SELECT * FROM blocks", 4, "run it: ablate run small.yaml blocks"),
            ("SELECT * FROM problms", 2, "did you mean `problems`?"),
            ("SELECT * FROM \"problems.droped\"", 2, "it has problems, dropped"),
            ("SELECT quest FROM problems", 2, "question"),
            ("SELEC 1", 2, "SELEC"),
            ("SELECT CAST(question AS INT) FROM problems", 2, "Cast"),
            ("COPY problems TO 'x.csv'", 2, "not supported"),
            ("DROP TABLE problems", 2, "not supported"),
        ] {
            let ran = query(&lab, sql, &[]);
            assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{sql}: {}", ran.stderr);
            assert!(ran.stderr.contains(words), "{sql}: {}", ran.stderr);
        }
        assert!(!lab.path("x.csv").exists());
    }
}
