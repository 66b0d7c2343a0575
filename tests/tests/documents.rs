//! What the documents say of this repository is so: the tests that they name exist, their links lead somewhere, the targets are those of the Makefile.

use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 5] =
    ["README.md", "docs/failover.md", "docs/operations.md", "docs/guarantees.md", "docs/architecture.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let guarantees = read("docs/guarantees.md");
    let named: Vec<(&str, &str)> = guarantees
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split_once("` ("))
        .filter_map(|(name, rest)| Some((name, rest.split_once(')')?.0)))
        .collect();
    assert!(named.len() > 30, "{named:?}");
    for (name, file) in named {
        assert!(read(file).contains(&format!("fn {name}(")), "{file} has no test {name}");
    }
    let points = guarantees.lines().filter(|line| line.starts_with("**")).count();
    let tested = guarantees.split("\n**").skip(1).filter(|point| point.contains("\n- `")).count();
    assert_eq!(points, tested, "each point of the guarantees names a test");
}

#[test]
fn links_between_the_documents_lead_to_files() {
    for document in DOCUMENTS {
        let directory = root().join(document).parent().expect("its directory").to_owned();
        let text = read(document);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            let file = target.split('#').next().unwrap_or_default();
            assert!(directory.join(file).exists(), "{document}: {target} leads nowhere");
        }
    }
}

#[test]
fn the_readme_lists_the_targets_as_the_makefile_does() {
    let makefile = read("Makefile");
    let shown = makefile.lines().filter_map(|line| {
        let (target, help) = line.split_once(" ## ")?;
        let name = target.split_once(':')?.0;
        name.bytes().all(|b| b.is_ascii_lowercase()).then(|| format!("  make {name:<8} {help}\n"))
    });
    let list: String = shown.collect();
    assert!(list.lines().count() > 5, "{list}");
    assert!(read("README.md").contains(&list), "make help says:\n{list}");
}
