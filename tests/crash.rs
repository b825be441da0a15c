//! Runners that are killed: the next run goes on, and ends with the same rows.

use crate::lab::Lab;
use crate::run::lab;
use std::time::Duration;

/// Moments between the start of the runner and its death, in milliseconds: spread over the whole of a run.
const MOMENTS_MS: [u64; 12] = [1, 3, 5, 8, 12, 18, 25, 40, 60, 90, 140, 220];

#[test]
fn a_killed_run_is_continued_and_ends_with_the_same_rows() {
    let undisturbed = lab();
    undisturbed.run("small.yaml", &[]);
    let expected = rows(&undisturbed);

    let lab = lab();
    for moment in MOMENTS_MS {
        let mut child = lab.command(&["run", "small.yaml"]).spawn().expect("the command starts");
        std::thread::sleep(Duration::from_millis(moment));
        // It may have ended already: then there is nothing to kill.
        let _ = child.kill();
        child.wait().expect("it was started");
    }
    lab.run("small.yaml", &[]);
    assert_eq!(rows(&lab), expected);
    let plan = lab.ok(&["plan", "small.yaml"]).stdout;
    assert!(plan.ends_with("0 of 4 stages to run\n"), "{plan}");
}

fn rows(lab: &Lab) -> Vec<Vec<String>> {
    ["problems", "clean", "blocks", "programs"].iter().map(|stage| lab.rows("small.yaml", stage)).collect()
}
