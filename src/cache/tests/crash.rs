//! Writers that are killed: at every step there is, and at moments that nobody chose.

use std::io::Read;
use std::process::Stdio;

use super::*;

const FOLDER: &str = "ABLATE_TEST_CRASH_FOLDER";
const CHILD: &str = "cache::tests::crash::a_writer_leaves_whole_records";

/// Everything that a stage, a map stage and a run write. Says `started` once something is under way.
fn write_everything(cache: &Cache, round: i64) -> Result<(), CacheError> {
    let first = round * 100;
    cache.commit(table_record(cache, &format!("stage-{round}"), first..first + 40)?)?;
    let family = Digest::of_bytes(b"family");
    for start in [first, first + 20] {
        cache.commit_batch(&batch_record(cache, family, start..start + 20)?)?;
    }
    let units: Vec<Digest> = (first..first + 40).map(unit_key).collect();
    cache.compact_units(&family, &rows(0..1).schema(), &units, &cache.family(&family)?)?;
    let scratch = cache.scratch()?;
    std::fs::write(scratch.path().join("config.json"), format!("{{\"round\":{round}}}")).unwrap();
    std::fs::write(scratch.path().join("weights"), vec![7; 100_000]).unwrap();
    let model = Output::Model(cache.put_folder(scratch.path(), Take::Move)?);
    cache.view(&model)?;
    cache.commit(record(&format!("model-{round}"), BTreeMap::from([("model".to_owned(), model)])))?;
    Ok(())
}

/// Whatever a lookup accepts must be readable and right.
fn check_everything(cache: &Cache, rounds: i64) -> usize {
    let mut found = 0;
    for round in 0..rounds {
        let first = round * 100;
        let key = |name: &str| Digest::of_parts("test key", [format!("{name}-{round}")]);
        if let Some(record) = cache.action(&key("stage")) {
            let Output::Table(output) = &record.outputs["rows"] else { panic!("a table was written") };
            assert_eq!(ints(&read_all(cache, output, Some(&["n"])).unwrap(), "n"), Vec::from_iter(first..first + 40));
            found += 1;
        }
        if let Some(record) = cache.action(&key("model")) {
            for blob in record.outputs["model"].blobs() {
                cache.verify(&blob).unwrap();
            }
            found += 1;
        }
    }
    let family = cache.family(&Digest::of_bytes(b"family")).unwrap();
    for round in 0..rounds {
        for row in round * 100..round * 100 + 40 {
            let Some(UnitPlace::Rows { .. }) = family.get(&unit_key(row)) else { continue };
            let table = family.table([&unit_key(row)]).unwrap();
            let read: Result<Vec<_>, _> = cache.read_rows(&rows(0..1).schema(), &table, None).unwrap().collect();
            assert_eq!(ints(&read.unwrap(), "n"), [row]);
            found += 1;
        }
    }
    assert_eq!(cache.take_damage(), [], "a killed writer leaves nothing that looks damaged");
    found
}

/// As a test of its own: one round, whole. As a child: rounds until it is killed, or one up to a chosen step.
#[test]
fn a_writer_leaves_whole_records() {
    let Ok(folder) = std::env::var(FOLDER) else {
        let lab = Lab::new();
        write_everything(&lab.cache, 0).unwrap();
        assert_eq!(check_everything(&lab.reopened(), 1), 2 + 32);
        return;
    };
    let cache = Cache::open(folder).unwrap();
    if std::env::var("ABLATE_TEST_ABORT_AT").is_ok() {
        return write_everything(&cache, 0).unwrap();
    }
    for round in 0.. {
        write_everything(&cache, round).unwrap();
        println_flushed(round);
    }
}

#[expect(clippy::print_stdout, reason = "the parent reads it")]
fn println_flushed(round: i64) {
    println!("{round}");
}

#[test]
fn a_writer_killed_at_any_step_leaves_nothing_partial_and_the_next_one_goes_on() {
    // Most of the time goes into waiting for the disk, so steps are tried side by side.
    const SIDE_BY_SIDE: usize = 8;
    let lab = Lab::new();
    let killed: usize = std::thread::scope(|scope| {
        let lanes: Vec<_> = (1..=SIDE_BY_SIDE)
            .map(|first| {
                let folder = lab.folder.path();
                scope.spawn(move || {
                    (first..).step_by(SIDE_BY_SIDE).take_while(|step| is_killed_at(*step, folder)).count()
                })
            })
            .collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).sum()
    });
    assert!(killed > 40, "only {killed} steps were tried");
}

/// Kills a writer at its n-th step and checks what it left. Returns false if it came to its end before.
fn is_killed_at(step: usize, folder: &std::path::Path) -> bool {
    let folder = folder.join(format!("killed-{step}"));
    let variables = [(FOLDER, folder.to_str().unwrap()), ("ABLATE_TEST_ABORT_AT", &step.to_string())];
    let output = child(CHILD, &variables).output().unwrap();
    let cache = Cache::open(&folder).unwrap();
    let found = check_everything(&cache, 1);
    if output.status.success() {
        assert_eq!(found, 2 + 32);
        return false;
    }
    // Whoever comes next finishes the work in the same folder, and nothing of the dead is left.
    write_everything(&cache, 0).unwrap();
    assert_eq!(check_everything(&Cache::open(&folder).unwrap(), 1), 2 + 32);
    drop(cache);
    assert_eq!(Cache::open(&folder).unwrap().status().unwrap().tmp.count, 0, "step {step}");
    true
}

#[test]
fn a_writer_killed_by_a_signal_leaves_nothing_partial() {
    let lab = Lab::new();
    let folder = lab.folder.path().join("killed");
    for rounds in 1..6 {
        let mut writer = child(CHILD, &[(FOLDER, folder.to_str().unwrap())]).stdout(Stdio::piped()).spawn().unwrap();
        // After some output the writer is in the midst of a round, at a point that nobody chose.
        let mut output = writer.stdout.take().unwrap();
        let mut lines = 0;
        let mut byte = [0];
        while lines < 3 + rounds && output.read(&mut byte).unwrap() == 1 {
            lines += usize::from(byte[0] == b'\n');
        }
        writer.kill().unwrap();
        assert!(!writer.wait().unwrap().success());
        assert!(check_everything(&Cache::open(&folder).unwrap(), 12) > 0);
    }
}
