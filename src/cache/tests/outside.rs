//! Files outside the cache: digests, the stat cache, references.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use super::*;

#[expect(clippy::disallowed_methods, reason = "the rule is about the time since a change")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn later() -> SystemTime {
    now() + Duration::from_mins(1)
}

#[test]
fn a_file_that_has_settled_is_read_once() {
    let lab = Lab::new();
    let path = lab.folder.path().join("input.jsonl");
    fs::write(&path, "one").unwrap();
    let first = lab.cache.digest_path_at(&path, later()).unwrap();
    assert_eq!((first.digest, first.bytes_read), (Digest::of_bytes(b"one"), 3));
    let again = lab.reopened().digest_path_at(&path, later()).unwrap();
    assert_eq!((again.digest, again.bytes, again.bytes_read), (first.digest, 3, 0));
    fs::write(&path, "two").unwrap();
    let changed = lab.reopened().digest_path_at(&path, later()).unwrap();
    assert_eq!((changed.digest, changed.bytes_read), (Digest::of_bytes(b"two"), 3));
}

#[test]
fn a_file_written_just_now_is_not_trusted() {
    let lab = Lab::new();
    let path = lab.folder.path().join("input.jsonl");
    fs::write(&path, "one").unwrap();
    for _ in 0..2 {
        assert_eq!(lab.cache.digest_path_at(&path, now()).unwrap().bytes_read, 3);
    }
}

#[test]
fn a_folder_is_its_files_by_name() {
    let lab = Lab::new();
    let digest_of = |name: &str, files: &[(&str, &str)]| {
        let folder = lab.folder.path().join(name);
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        lab.cache.digest_path(&folder).unwrap().digest
    };
    let one = digest_of("one", &[("a", "1"), ("s/b", "2")]);
    assert_eq!(one, digest_of("two", &[("s/b", "2"), ("a", "1"), (".git/HEAD", "x")]), "order, place and dot files");
    assert_ne!(one, digest_of("three", &[("a", "1"), ("b", "2")]));
    assert_ne!(one, digest_of("four", &[("a", "2"), ("s/b", "1")]));
    symlink(lab.folder.path().join("one"), lab.folder.path().join("link")).unwrap();
    assert_eq!(one, digest_of("link", &[]), "links are followed");
}

#[test]
fn a_folder_that_contains_itself_is_an_error() {
    let lab = Lab::new();
    let folder = lab.folder.path().join("loop");
    fs::create_dir(&folder).unwrap();
    symlink(&folder, folder.join("again")).unwrap();
    let error = lab.cache.digest_path(&folder).unwrap_err().to_string();
    assert!(error.contains("contains itself"), "{error}");
}

#[test]
fn a_referenced_model_counts_only_while_it_is_unchanged() {
    let lab = Lab::new();
    let folder = lab.folder.path().join("model");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    let content = lab.cache.digest_path(&folder).unwrap().digest;
    let output = Output::Model(FilesOutput::Referenced { content, path: folder.clone() });
    assert_eq!(lab.cache.view(&output).unwrap(), folder);
    let record = lab.cache.commit(record("model", BTreeMap::from([("model".to_owned(), output)]))).unwrap();
    assert_eq!(lab.cache.action(&record.key).as_ref(), Some(&record));
    fs::write(folder.join("config.json"), "{ }").unwrap();
    assert_eq!(lab.cache.action(&record.key), None);
    assert!(lab.cache.take_damage()[0].problem.contains("has changed"));
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(lab.cache.action(&record.key), None);
}

#[test]
fn names_that_lead_out_of_a_folder_are_refused() {
    let lab = Lab::new();
    let blob = lab.cache.put_bytes(b"x").unwrap();
    for name in ["../x", "/x", "a/../../x", "", "a/"] {
        let files = BTreeMap::from([(name.to_owned(), blob)]);
        let content = super::super::files::digest_of_files(&files);
        let output = Output::Files(FilesOutput::Stored { content, files });
        let error = lab.cache.commit(record("r", BTreeMap::from([("files".to_owned(), output)]))).unwrap_err();
        assert!(matches!(error, CacheError::BadRecord { .. }), "{name}: {error}");
    }
}
