//! The timeline of a run, from its events: when each stage worked, and when it worked ahead of the stage it reads from.

use serde_json::Value;
use std::fmt::Write as _;

/// Characters of the longest bar.
const WIDTH: usize = 60;

#[derive(Default)]
struct Line {
    stage: String,
    /// Stretches in seconds, and whether the stage was ahead in them.
    stretches: Vec<(f64, f64, bool)>,
    open: Vec<(f64, bool)>,
}

/// Draws the events of a run, one JSON object a line: `=` where a stage works, `-` where it works ahead on rows of a stage that goes on.
pub fn timeline(events: &str) -> String {
    let mut lines: Vec<Line> = Vec::new();
    let mut end: f64 = 0.0;
    for event in events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let at = event["at_s"].as_f64().unwrap_or(0.0);
        end = end.max(at);
        let Some(stage) = event["stage"].as_str() else { continue };
        let place = lines.iter().position(|line| line.stage == stage);
        match (event["event"].as_str(), event["worker"].as_str(), place) {
            (Some("stage_started"), _, place) => open(&mut lines, place, stage, (at, false)),
            (Some("stage_ahead"), Some("begins"), place) => open(&mut lines, place, stage, (at, true)),
            (Some("stage_ahead"), _, Some(place)) => close(&mut lines[place], at, true),
            (Some("stage_finished" | "stage_failed" | "stage_skipped"), _, Some(place)) => {
                close(&mut lines[place], at, false);
            }
            _ => {}
        }
    }
    for line in &mut lines {
        // What was cut off goes on to the end.
        while let Some((from, ahead)) = line.open.pop() {
            line.stretches.push((from, end, ahead));
        }
    }
    draw(&lines, end)
}

fn open(lines: &mut Vec<Line>, place: Option<usize>, stage: &str, stretch: (f64, bool)) {
    match place {
        Some(place) => lines[place].open.push(stretch),
        None => lines.push(Line { stage: stage.to_owned(), stretches: Vec::new(), open: vec![stretch] }),
    }
}

fn close(line: &mut Line, at: f64, was_ahead: bool) {
    if let Some(place) = line.open.iter().position(|(_, ahead)| *ahead == was_ahead) {
        let (from, ahead) = line.open.remove(place);
        line.stretches.push((from, at, ahead));
    }
}

fn draw(lines: &[Line], end: f64) -> String {
    let width = lines.iter().map(|line| line.stage.chars().count()).max().unwrap_or(0);
    let scale = WIDTH as f64 / end.max(1e-9);
    let mut text = String::new();
    for line in lines {
        let mut bar = vec![' '; WIDTH];
        let mut stretches = line.stretches.clone();
        // Work of its own is drawn over work ahead.
        stretches.sort_by_key(|(.., ahead)| !ahead);
        for (from, to, ahead) in stretches {
            let from = ((from * scale) as usize).min(WIDTH - 1);
            let to = ((to * scale).ceil() as usize).clamp(from + 1, WIDTH);
            bar[from..to].fill(if ahead { '-' } else { '=' });
        }
        let (from, to) = line.stretches.iter().fold((f64::MAX, 0.0_f64), |(a, b), s| (a.min(s.0), b.max(s.1)));
        let bar: String = bar.into_iter().collect();
        writeln!(text, "{:width$}  |{bar}|  {from:.1} .. {to:.1} s", line.stage).expect("writing to a string");
    }
    if lines.iter().any(|line| line.stretches.iter().any(|(.., ahead)| *ahead)) {
        text.push_str("= at work, - at work ahead, on rows of a stage that still goes on\n");
    }
    if lines.is_empty() { "nothing ran: all was in the cache\n".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_that_work_ahead_are_drawn_beside_the_stage_they_follow() {
        let events = r#"{"at_s":0.0,"event":"run_started"}
{"at_s":0.0,"event":"stage_started","stage":"middles"}
{"at_s":2.0,"event":"stage_ahead","stage":"verdicts","worker":"begins","units":64}
{"at_s":4.0,"event":"stage_ahead","stage":"verdicts","worker":"ends","units":64}
{"at_s":6.0,"event":"stage_finished","stage":"middles"}
{"at_s":6.0,"event":"stage_started","stage":"verdicts"}
{"at_s":8.0,"event":"stage_finished","stage":"verdicts"}
a line that was cut o"#;
        let drawn = timeline(events);
        let bars: Vec<&str> = drawn.lines().filter_map(|line| line.split('|').nth(1)).collect();
        assert_eq!(
            bars,
            [
                format!("{}{}", "=".repeat(45), " ".repeat(15)),
                format!("{}{}{}{}", " ".repeat(15), "-".repeat(15), " ".repeat(15), "=".repeat(15)),
            ]
        );
        assert!(drawn.contains("verdicts  |") && drawn.contains("2.0 .. 8.0 s"), "{drawn}");
    }
}
