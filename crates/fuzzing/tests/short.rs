//! Each target over its corpus, and over mutations of it that a seed decides.

use coracle_fuzzing::{TARGETS, run};
use coracle_testkit::random::Random;
use std::{
    panic::catch_unwind,
    path::{Path, PathBuf},
};

/// Mutations a target. The fuzzer itself runs as long as one likes: `cargo xtask fuzz`.
const RUNS: u64 = 3000;
/// Longest input; what is longer says little more.
const LONGEST: usize = 4096;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&directory)
        .unwrap_or_else(|e| panic!("{} has no corpus: {e}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("a readable corpus").path()).collect();
    files.sort();
    files.into_iter().map(|f| (f.clone(), std::fs::read(f).expect("a readable input"))).collect()
}

/// One or a few small changes, or a piece of another input.
fn mutate(random: &mut Random, all: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let pick = |random: &mut Random| &all[random.below(all.len() as u64) as usize].1;
    let mut data = pick(random).clone();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() as u64 + 1) as usize;
        match random.below(6) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = random.below(256) as u8,
            2 => data.truncate(at),
            3 => data.insert(at, b"{}[]\",:\\0-'( \n"[random.below(14) as usize]),
            4 if at < data.len() => {
                let end = at + random.below((data.len() - at) as u64 + 1) as usize;
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            _ => {
                let other = pick(random);
                let from = random.below(other.len() as u64 + 1) as usize;
                data.splice(at.., other[from..].iter().copied());
            }
        }
    }
    data.truncate(LONGEST);
    data
}

#[test]
fn targets_hold_over_their_corpus_and_near_it() {
    for (name, _) in TARGETS {
        let all = corpus(name);
        assert!(!all.is_empty(), "{name} has an empty corpus");
        let check = |data: &[u8]| {
            let bytes = data.to_vec();
            assert!(
                catch_unwind(|| run(name, &bytes)).is_ok(),
                "{name} fails for {:?}",
                String::from_utf8_lossy(data)
            );
        };
        all.iter().for_each(|(_, data)| check(data));
        let mut random = Random::new(name.len() as u64);
        (0..RUNS).for_each(|_| check(&mutate(&mut random, &all)));
    }
}
