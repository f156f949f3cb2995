//! `cargo bench -p coracle-store`: durable writes of 2 KiB from 1, 16 and 64 writers at once, beside what
//! lies under them: the bare engine, and a bare file. Each write is on disk before it counts.

use coracle_store::{Encoded, Expect, Header, Key, Store, Write};
use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

/// How many write at once, and how many writes that is worth measuring.
const LOADS: [(usize, usize); 3] = [(1, 2_000), (16, 20_000), (64, 40_000)];
const BYTES: usize = 2048;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    println!("durable writes of {BYTES} bytes:");
    for (writers, writes) in LOADS {
        let place = directory.path().join(writers.to_string());
        std::fs::create_dir(&place)?;
        let file = per_second(writes, || file(&place, writers, writes))?;
        let engine = per_second(writes, || engine(&place.join("engine"), writers, writes))?;
        let store = per_second(writes, || store(&place.join("store"), writers, writes))?;
        println!(
            "  {writers} at once: a bare file, one fdatasync for {writers}: {file:.0}/s; the bare engine, batches of {writers}: {engine:.0}/s; the store, {writers} writers: {store:.0}/s, {:.2} of the engine",
            store / engine
        );
    }
    Ok(())
}

fn per_second(writes: usize, run: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    let started = Instant::now();
    run()?;
    Ok(writes as f64 / started.elapsed().as_secs_f64())
}

fn file(directory: &std::path::Path, writers: usize, writes: usize) -> Result<(), Failure> {
    let mut file = std::fs::File::create(directory.join("log"))?;
    let batch = vec![b'x'; BYTES * writers];
    for _ in 0..writes / writers {
        file.write_all(&batch)?;
        file.sync_data()?;
    }
    Ok(())
}

fn engine(directory: &std::path::Path, writers: usize, writes: usize) -> Result<(), Failure> {
    let database = fjall::Database::builder(directory).open()?;
    let objects = database.keyspace("objects", fjall::KeyspaceCreateOptions::default)?;
    let value = vec![b'x'; BYTES];
    for batch in 0..writes / writers {
        let mut b = database.batch().durability(Some(fjall::PersistMode::SyncData));
        for i in 0..writers {
            b.insert(&objects, format!("c\0configmaps\0default\0{}", batch * writers + i), &*value);
        }
        b.commit()?;
    }
    Ok(())
}

fn store(directory: &std::path::Path, writers: usize, writes: usize) -> Result<(), Failure> {
    let cluster = Store::open(directory)?.cluster("c")?;
    let resource: Arc<str> = "configmaps".into();
    let next = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    runtime.block_on(async {
        let writer = || {
            let (cluster, resource, next) = (cluster.clone(), resource.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= writes {
                        return Ok::<(), Failure>(());
                    }
                    let text = format!(
                        "{{\"metadata\":{{\"resourceVersion\":\"\"}},\"data\":\"{}\"}}",
                        "x".repeat(BYTES - 48)
                    );
                    let object = Encoded::new(text.into_bytes(), 0, Header::default(), 0);
                    let key = Key::new(&resource, "default", &i.to_string());
                    cluster.commit(Write { key, expect: Expect::Absent, object }).await?;
                }
            })
        };
        let writers: Vec<_> = (0..writers).map(|_| writer()).collect();
        for w in writers {
            w.await??;
        }
        Ok(())
    })
}
