//! Blobs and records: damage, concurrency, disks that are full or cannot be written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use super::*;

#[test]
fn a_blob_is_read_only_and_found_by_its_hash() {
    let lab = Lab::new();
    let blob = lab.cache.put_bytes(b"abc").unwrap();
    assert_eq!(blob, Blob { hash: Digest::of_bytes(b"abc"), bytes: 3 });
    assert_eq!(lab.reopened().read_blob(&blob).unwrap(), b"abc");
    let path = lab.cache.layout().object(&blob.hash);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o222, 0);
    assert!(path.ends_with(format!("objects/{}/{}", &blob.hash.to_string()[..2], &blob.hash.to_string()[2..])));
}

#[test]
fn a_file_is_moved_or_copied_as_asked() {
    let lab = Lab::new();
    let scratch = lab.cache.scratch().unwrap();
    let (ours, theirs) = (scratch.path().join("ours"), lab.folder.path().join("theirs"));
    let large = vec![1; 5 << 20];
    fs::write(&ours, &large).unwrap();
    fs::write(&theirs, &large).unwrap();
    let moved = lab.cache.put_file(&ours, Take::Move).unwrap();
    let copied = lab.cache.put_file(&theirs, Take::Copy).unwrap();
    assert_eq!((moved, moved.hash), (copied, Digest::of_bytes(&large)));
    assert!(!ours.exists() && theirs.exists());
    assert_eq!(fs::metadata(&theirs).unwrap().permissions().mode() & 0o200, 0o200, "their file stays writable");
}

#[test]
fn a_flipped_bit_is_named_and_the_blob_is_made_anew() {
    let lab = Lab::new();
    let record = lab.cache.commit(table_record(&lab.cache, "stage", 0..10).unwrap()).unwrap();
    let Output::Table(output) = &record.outputs["rows"] else { panic!("a table was written") };
    let path = lab.cache.layout().object(&output.table.parts[0].blob.hash);
    flip_a_bit(&path);

    let other = lab.reopened();
    let error = read_all(&other, output, None).unwrap_err();
    assert!(matches!(error, CacheError::CorruptObject { .. }), "{error}");
    assert!(other.take_damage()[0].to_string().contains("damaged"));
    assert!(other.action(&record.key).is_none(), "a record without its blob does not count");
    assert!(other.take_damage()[0].problem.contains("not in the store"));
    other.commit(table_record(&other, "stage", 0..10).unwrap()).unwrap();
    assert_eq!(ints(&read_all(&lab.reopened(), output, None).unwrap(), "n"), Vec::from_iter(0..10));
}

#[test]
fn writing_the_same_bytes_heals_a_damaged_blob() {
    let lab = Lab::new();
    let blob = lab.cache.put_bytes(b"some bytes").unwrap();
    flip_a_bit(&lab.cache.layout().object(&blob.hash));
    let other = lab.reopened();
    assert_eq!(other.put_bytes(b"some bytes").unwrap(), blob);
    assert_eq!(lab.reopened().read_blob(&blob).unwrap(), b"some bytes");
}

#[test]
fn a_damaged_or_foreign_record_counts_as_absent_and_is_named() {
    let lab = Lab::new();
    let record = lab.cache.commit(table_record(&lab.cache, "stage", 0..3).unwrap()).unwrap();
    let path = lab.cache.layout().action(&record.key);
    let text = fs::read(&path).unwrap();
    let refused = |text: &[u8], why: &str| {
        fs::remove_file(&path).unwrap();
        fs::write(&path, text).unwrap();
        assert!(lab.cache.action(&record.key).is_none());
        let damage = lab.cache.take_damage();
        assert!(damage.len() == 1 && damage[0].path == path && damage[0].problem.contains(why), "{damage:?}");
    };
    refused(&text[..text.len() / 2], "cut short");
    let altered = String::from_utf8(text.clone()).unwrap().replace("too-long", "too-lang");
    refused(altered.as_bytes(), "altered");
    refused(&super::super::sealed::seal(&Record { format: 99, ..record.clone() }).unwrap(), "format 99");
    let other = Record { key: Digest::of_bytes(b"other"), ..record.clone() };
    refused(&super::super::sealed::seal(&other).unwrap(), "filed under another name");
    refused(b"", "cut short");
    // The next commit puts a sound one there.
    lab.cache.commit(record.clone()).unwrap();
    assert_eq!(lab.cache.action(&record.key), Some(record));
}

#[test]
fn a_record_comes_back_as_it_was_under_key_and_recipes() {
    let lab = Lab::new();
    let committed = lab.cache.commit(table_record(&lab.cache, "stage", 0..3).unwrap()).unwrap();
    let other = lab.reopened();
    assert_eq!(other.action(&committed.key).as_ref(), Some(&committed));
    assert_eq!(other.recipe(&committed.recipe).as_ref(), Some(&committed));
    let second = Digest::of_bytes(b"second recipe");
    assert_eq!(other.recipe(&second), None);
    other.link_recipe(&second, &committed.key).unwrap();
    assert_eq!(lab.reopened().recipe(&second), Some(committed));
    assert_eq!(other.take_damage(), []);
}

#[test]
fn the_first_of_two_records_for_a_key_stands() {
    let lab = Lab::new();
    let first = lab.cache.commit(table_record(&lab.cache, "stage", 0..3).unwrap()).unwrap();
    let later = Record { recipe: Digest::of_bytes(b"r2"), ..table_record(&lab.cache, "stage", 0..4).unwrap() };
    assert_eq!(lab.reopened().commit(later).unwrap(), first);
    assert_eq!(lab.cache.recipe(&Digest::of_bytes(b"r2")), Some(first));
}

#[test]
fn a_record_of_blobs_that_are_not_stored_is_refused() {
    let lab = Lab::new();
    let record = table_record(&lab.cache, "stage", 0..3).unwrap();
    fs::remove_dir_all(lab.cache.layout().objects()).unwrap();
    assert!(matches!(lab.cache.commit(record.clone()).unwrap_err(), CacheError::MissingObject { .. }));
    assert!(lab.cache.action(&record.key).is_none());
}

#[test]
fn looking_up_writes_nothing() {
    let lab = Lab::new();
    let digest = Digest::of_bytes(b"x");
    assert!(lab.cache.action(&digest).is_none() && lab.cache.recipe(&digest).is_none());
    assert!(lab.cache.family(&digest).unwrap().is_empty());
    assert_eq!(lab.cache.past_runs().unwrap(), []);
    assert_eq!(lab.cache.status().unwrap().objects, Amount::default());
    assert!(!lab.cache.layout().root().exists());
}

#[test]
fn many_writers_of_the_same_things_agree() {
    let lab = Lab::new();
    let caches: Vec<Cache> = (0..8).map(|_| lab.reopened()).collect();
    std::thread::scope(|scope| {
        for cache in &caches {
            scope.spawn(move || {
                for name in 0..10 {
                    cache.commit(table_record(cache, &name.to_string(), 0..name).unwrap()).unwrap();
                    cache.commit_batch(&batch_record(cache, Digest::of_bytes(b"f"), 0..20).unwrap()).unwrap();
                }
            });
        }
    });
    for name in 0..10 {
        let record = lab.cache.action(&Digest::of_parts("test key", [name.to_string()])).unwrap();
        let Output::Table(output) = &record.outputs["rows"] else { panic!("a table was written") };
        assert_eq!(ints(&read_all(&lab.cache, output, None).unwrap(), "n"), Vec::from_iter(0..name));
    }
    assert_eq!(lab.cache.family(&Digest::of_bytes(b"f")).unwrap().len(), 20);
    let status = lab.cache.status().unwrap();
    assert_eq!((status.actions.count, status.recipes.count, status.batches.count, status.families), (10, 10, 1, 1));
    assert_eq!(status.objects.count, 11, "ten tables and a batch");
    assert_eq!(lab.cache.take_damage(), []);
}

const SMALL: &str = "ABLATE_TEST_SMALL_DISK";

/// Where root may mount (or make a namespace to mount in), on a disk of one megabyte; else it says why not.
#[test]
fn a_full_disk_is_a_clear_error_and_keeps_nothing() {
    let Ok(folder) = std::env::var(SMALL) else {
        let lab = Lab::new();
        return in_namespace(
            "cache::tests::storage::a_full_disk_is_a_clear_error_and_keeps_nothing",
            "mount -t tmpfs -o size=1m tmpfs \"$ABLATE_TEST_SMALL_DISK\" && exec \"$@\"",
            lab.folder.path(),
        );
    };
    let cache = Cache::open(Path::new(&folder).join("cache")).unwrap();
    let kept = cache.commit(table_record(&cache, "kept", 0..10).unwrap()).unwrap();
    // Noise does not compress: this is 4 MB in any format.
    let noise: Vec<u8> = (0..131_072_u32).flat_map(|n| *Digest::of_bytes(&n.to_le_bytes()).as_bytes()).collect();
    let full = |result: Result<(), CacheError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, CacheError::DiskFull { .. }), "{error}");
        assert!(error.to_string().contains("no space left") && error.to_string().contains("ABLATE_CACHE"));
    };
    full(cache.put_bytes(&noise).map(drop));
    let column: ArrayRef = Arc::new(arrow::array::BinaryArray::from_iter_values(noise.chunks(1000)));
    let batch = batch(&[("noise", column)]);
    let write_table = || {
        let mut writer = cache.table_writer(batch.schema_ref())?;
        writer.write(&batch)?;
        writer.finish().map(drop)
    };
    full(write_table());
    // The disk is as it was: the next, smaller thing fits.
    assert_eq!(cache.status().unwrap().tmp.bytes, 0);
    cache.commit(table_record(&cache, "after", 0..20).unwrap()).unwrap();
    assert_eq!(Cache::open(cache.layout().root()).unwrap().action(&kept.key), Some(kept));
}

#[test]
fn a_read_only_disk_can_be_read_and_says_so_when_written() {
    let Ok(folder) = std::env::var(SMALL) else {
        let lab = Lab::new();
        Cache::open(lab.folder.path().join("cache"))
            .and_then(|cache| cache.commit(table_record(&cache, "kept", 0..10)?))
            .unwrap();
        return in_namespace(
            "cache::tests::storage::a_read_only_disk_can_be_read_and_says_so_when_written",
            "mount --bind \"$ABLATE_TEST_SMALL_DISK\" \"$ABLATE_TEST_SMALL_DISK\" \
             && mount -o remount,bind,ro \"$ABLATE_TEST_SMALL_DISK\" && exec \"$@\"",
            lab.folder.path(),
        );
    };
    let cache = Cache::open(Path::new(&folder).join("cache")).unwrap();
    let record = cache.action(&Digest::of_parts("test key", ["kept"])).unwrap();
    let Output::Table(output) = &record.outputs["rows"] else { panic!("a table was written") };
    assert_eq!(ints(&read_all(&cache, output, None).unwrap(), "n").len(), 10);
    cache.declared_digest(output, &["id"]).unwrap();
    let error = cache.put_bytes(b"x").unwrap_err();
    assert!(matches!(error, CacheError::ReadOnly { .. }), "{error}");
    assert!(cache.lock(&record.key).is_err());
}

const FORBIDDEN: &str = "ABLATE_TEST_FORBIDDEN";

#[test]
fn a_folder_of_somebody_else_can_be_read_and_says_so_when_written() {
    let Ok(folder) = std::env::var(FORBIDDEN) else {
        let lab = Lab::new();
        lab.cache.commit(table_record(&lab.cache, "kept", 0..10).unwrap()).unwrap();
        let root = lab.cache.layout().root();
        for folder in [lab.folder.path(), root, &lab.cache.layout().tmp()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
        }
        let name = "cache::tests::storage::a_folder_of_somebody_else_can_be_read_and_says_so_when_written";
        let mut command = child(name, &[(FORBIDDEN, root.to_str().unwrap())]);
        if is_root() {
            // Root is never refused; nobody is.
            command.uid(65_534).gid(65_534);
        }
        let ran = command.output();
        fs::set_permissions(lab.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        match ran {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
            Err(error) => skip(&format!("the test binary cannot be run as another user: {error}")),
        }
        for folder in [root, &lab.cache.layout().tmp()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        return;
    };
    let cache = Cache::open(folder).unwrap();
    assert!(cache.action(&Digest::of_parts("test key", ["kept"])).is_some());
    let error = cache.put_bytes(b"x").unwrap_err();
    assert!(matches!(error, CacheError::NoPermission { .. }), "{error}");
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0
}

fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Runs a test of this binary after `script` in a mount namespace of its own, with `folder` as the disk.
fn in_namespace(test: &str, script: &str, folder: &Path) {
    let works = std::process::Command::new("unshare").args(["-rm", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        return skip("this machine allows no mount namespaces");
    }
    let inner = child(test, &[]);
    let output = std::process::Command::new("unshare")
        .args(["-rm", "sh", "-c", script, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .env(SMALL, folder)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn skip(why: &str) {
    eprintln!("skipped: {why}");
}
