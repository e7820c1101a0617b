use std::fs;
use std::path::Path;

use rand::SeedableRng;
use tempfile::{TempDir, tempdir};

use super::*;

/// Writes tar files of samples: name and contents of each member.
fn tar_of(path: &Path, members: &[(&str, &[u8])]) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, contents) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *contents).unwrap();
    }
    tar.finish().unwrap();
}

/// Three tar files of 7 samples, whose images hold their number and whose class is that number modulo 3.
fn shards() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    for shard in 0..3 {
        let members: Vec<(String, Vec<u8>)> = (0..7)
            .flat_map(|sample| {
                let number = shard * 7 + sample;
                let image = (format!("{number:04}.jpg"), format!("image {number}").into_bytes());
                [image, (format!("{number:04}.cls"), format!("{}\n", number % 3).into_bytes())]
            })
            .collect();
        let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        tar_of(&folder.path().join(format!("s-{shard:02}.tar")), &members);
    }
    let pattern = folder.path().join("s-{00..02}.tar");
    (folder, pattern)
}

#[test]
fn samples_are_found_in_their_places() {
    let (_folder, pattern) = shards();
    let set = ShardSet::open(&pattern, 4, None).unwrap();
    assert_eq!(set.len(), 21);
    for index in 0..21 {
        assert_eq!(set.read(index).unwrap(), format!("image {index}").into_bytes());
        assert_eq!(set.label(index), index as i64 % 3);
    }
    assert!(set.place(8).starts_with("0008.jpg in ") && set.place(8).ends_with("s-01.tar"), "{}", set.place(8));
    set.check_outputs(3).unwrap();
    let error = set.check_outputs(2).unwrap_err().to_string();
    assert!(error.contains("3 classes") && error.contains("2 outputs"), "{error}");
}

#[test]
fn an_order_has_every_sample_once_and_keeps_the_tar_files_together() {
    let (_folder, pattern) = shards();
    let order = |buffer, seed| {
        let set = ShardSet::open(&pattern, buffer, None).unwrap();
        set.order(Some(&mut ChaCha8Rng::seed_from_u64(seed)))
    };
    for buffer in [1, 4, 100] {
        let mut all = order(buffer, 5);
        assert_eq!(all, order(buffer, 5));
        assert_ne!(all, order(buffer, 6));
        all.sort_unstable();
        assert_eq!(all, (0..21).collect::<Vec<_>>());
    }
    // Without a buffer to speak of, one tar file after the other from its beginning.
    assert!(order(1, 3).chunks(7).all(|shard| shard.windows(2).all(|pair| pair[1] == pair[0] + 1)));
    let set = ShardSet::open(&pattern, 4, None).unwrap();
    assert_eq!(set.order(None), (0..21).collect::<Vec<_>>());
}

#[test]
fn a_stream_gives_the_samples_of_its_order_from_any_place() {
    let (_folder, pattern) = shards();
    for buffer in [1, 5, 100] {
        let set = Arc::new(ShardSet::open(&pattern, buffer, None).unwrap());
        for order in [set.order(None), set.order(Some(&mut ChaCha8Rng::seed_from_u64(1)))] {
            for from in [0, 1, 8, 20, 21] {
                let stream = Arc::clone(&set).stream(&order, from).unwrap();
                let read: Vec<_> = stream.map(|bytes| String::from_utf8(bytes.unwrap()).unwrap()).collect();
                let wanted: Vec<_> = order[from..].iter().map(|index| format!("image {index}")).collect();
                assert_eq!(read, wanted, "buffer {buffer}, from {from}");
            }
        }
    }
}

#[test]
fn tar_files_that_are_not_as_they_should_be_say_so() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.tar");
    let error = || ShardSet::open(&path, 4, None).err().unwrap().to_string();
    assert!(error().contains("x.tar is not there (1 of 1"), "{}", error());
    for (members, says) in [
        (&[][..], "no samples"),
        (&[("a.jpg", &b"x"[..])], "a.jpg but not its class, a.cls"),
        (&[("a.cls", b"1")], "a.cls but not its image"),
        (&[("a.jpg", b"x"), ("a.cls", b"cat")], "no number in a.cls"),
        (&[("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"1")], "two images of the sample `a`"),
    ] {
        tar_of(&path, members);
        let error = error();
        assert!(error.contains(says) && error.contains("help: "), "{says}: {error}");
    }
    fs::write(&path, "Dear archive,\n".repeat(100)).unwrap();
    assert!(error().contains("is no tar file"), "{}", error());
    let (shards, _) = shards();
    let whole = fs::read(shards.path().join("s-00.tar")).unwrap();
    for length in [600, 512 * 9 + 3] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = error();
        assert!(error.contains("cut short"), "{length}: {error}");
    }
}

#[test]
fn a_kept_list_is_taken_until_the_tar_file_changes() {
    let ((folder, pattern), cache) = (shards(), tempdir().unwrap());
    let open = || ShardSet::open(&pattern, 4, Some(cache.path())).unwrap().len();
    let cached = || fs::read_dir(cache.path()).unwrap().count();
    assert_eq!((open(), cached()), (21, 0));
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    for shard in 0..3 {
        let path = folder.path().join(format!("s-{shard:02}.tar"));
        fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
    }
    assert_eq!((open(), cached()), (21, 3));
    assert_eq!(open(), 21);
    tar_of(&folder.path().join("s-01.tar"), &[("z.png", b"z"), ("z.cls", b"0")]);
    assert_eq!(open(), 15);
}
