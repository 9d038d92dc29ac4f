//! What the upgrade will ask about: known from what is installed, what lies in `/etc`, and what the new packages bring. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::deb::{Control, NewFile};
use super::diff::Lines;
use super::stock::{Conffile, Keeper, Local, Md5Sum, Stock};

/// What will become of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Changed here and by the new package: dpkg asks.
    Asked,
    /// Made by a maintainer script through ucf and changed here: it asks when the new text is another one, which only the script knows.
    PerhapsAsked,
    /// Changed here only: it stays, and nobody asks.
    Stays,
    /// Here it already is what the new package brings.
    Same,
    /// The new package removes it: it is put beside (`.dpkg-bak`) and no longer in force.
    PutAside,
    /// The new package has another name for it.
    Renamed(PathBuf),
    /// No new package has it: it stays where it is, and whether anything still reads it is not known.
    LeftBehind,
    /// There is no newer package.
    NotUpgraded,
}

/// The digests of the new file that a decision is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSums {
    /// As dpkg records it.
    pub md5: Md5Sum,
    /// As answers record it.
    pub blake3: blake3::Hash,
}

/// A configuration file that is not as its package brought it, and what will become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// The file.
    pub path: PathBuf,
    /// The package that has it.
    pub package: String,
    /// Who asks.
    pub keeper: Keeper,
    /// How it lies there.
    pub local: Local,
    /// What will become of it.
    pub outcome: Outcome,
    /// The new file, where there is one and it could be read.
    pub new: Option<NewSums>,
    /// How many lines the two differ in, where both are text.
    pub lines: Option<Lines>,
}

/// What is known of the packages that will be installed.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    /// The newer packages, by name.
    pub packages: BTreeMap<String, Control>,
    /// The files of theirs that matter.
    pub files: BTreeMap<PathBuf, NewFile>,
}

impl Upstream {
    /// Which new package declares a configuration file; the one that has it now is asked first.
    #[must_use]
    pub fn owner(&self, path: &Path, now: &str) -> Option<&Control> {
        let declares = |package: &&Control| package.conffiles.contains(path);
        self.packages.get(now).filter(declares).or_else(|| self.packages.values().find(declares))
    }
}

/// The packages whose new version says whether anything will be asked: those that own a file that was changed here. Nothing else
/// has to be fetched for a prediction.
#[must_use]
pub fn wanted(stock: &Stock) -> Vec<String> {
    let changed = stock.conffiles.iter().filter(|one| one.is_changed() && !one.package.is_empty());
    let packages: BTreeSet<String> = changed.map(|one| one.package.clone()).collect();
    packages.into_iter().collect()
}

/// Every configuration file that was changed here, with what will become of it. In the order of paths.
#[must_use]
pub fn predict(stock: &Stock, upstream: &Upstream) -> Vec<Prediction> {
    let changed = stock.conffiles.iter().filter(|one| one.is_changed());
    let mut found: Vec<Prediction> = changed
        .filter_map(|one| match one.keeper {
            Keeper::Dpkg => of_dpkg(one, upstream),
            Keeper::Ucf => of_ucf(one, stock, upstream),
        })
        .collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Files that lie there although no package declared them, where a new package will: dpkg asks about these as well.
#[must_use]
pub fn unowned(
    declared: &BTreeSet<&Path>,
    upstream: &Upstream,
    local: &BTreeMap<PathBuf, Md5Sum>,
) -> Vec<Prediction> {
    let of_package = |package: &Control| {
        let mine = package.conffiles.iter().filter(|path| !declared.contains(path.as_path()));
        let found = mine.filter_map(|path| {
            let (sum, new) = (*local.get(path)?, upstream.files.get(path).map(sums)?);
            (new.md5 != sum).then(|| Prediction {
                path: path.clone(),
                package: package.package.clone(),
                keeper: Keeper::Dpkg,
                local: Local::Changed(sum),
                outcome: Outcome::Asked,
                new: Some(new),
                lines: None,
            })
        });
        found.collect::<Vec<_>>()
    };
    upstream.packages.values().flat_map(of_package).collect()
}

fn of_dpkg(one: &Conffile, upstream: &Upstream) -> Option<Prediction> {
    let mut prediction = Prediction {
        path: one.path.clone(),
        package: one.package.clone(),
        keeper: Keeper::Dpkg,
        local: one.local,
        outcome: Outcome::NotUpgraded,
        new: None,
        lines: None,
    };
    if let Some(package) = upstream.owner(&one.path, &one.package) {
        // Where its content could not be read from the package, being asked is what must be expected.
        prediction.new = upstream.files.get(&one.path).map(sums);
        prediction.package.clone_from(&package.package);
        prediction.outcome = match (prediction.new, one.local) {
            (Some(new), Local::Changed(mine)) if new.md5 == mine => Outcome::Same,
            (Some(new), _) if new.md5 == one.recorded => Outcome::Stays,
            _ => Outcome::Asked,
        };
        return Some(prediction);
    }
    let Some(package) = upstream.packages.get(&one.package) else { return Some(prediction) };
    // What nobody declares any more and nobody has here needs no word.
    if one.local == Local::Missing {
        return None;
    }
    prediction.outcome = match package.renamed.get(&one.path) {
        Some(new) => Outcome::Renamed(new.clone()),
        None if package.removed.contains(&one.path) => Outcome::PutAside,
        // It was obsolete before: nothing changes.
        None if one.obsolete => return None,
        None => Outcome::LeftBehind,
    };
    Some(prediction)
}

fn of_ucf(one: &Conffile, stock: &Stock, upstream: &Upstream) -> Option<Prediction> {
    // ucf leaves alone what was deleted. What became a declared file is dpkg's to ask about.
    let declared = stock.conffiles.iter().any(|other| other.keeper == Keeper::Dpkg && other.path == one.path);
    if one.local == Local::Missing || declared {
        return None;
    }
    let upgraded = one.package.is_empty() || upstream.packages.contains_key(&one.package);
    Some(Prediction {
        path: one.path.clone(),
        package: one.package.clone(),
        keeper: Keeper::Ucf,
        local: one.local,
        outcome: if upgraded { Outcome::PerhapsAsked } else { Outcome::NotUpgraded },
        new: None,
        lines: None,
    })
}

fn sums(file: &NewFile) -> NewSums {
    NewSums { md5: file.md5, blake3: file.blake3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> NewFile {
        let bytes = content.as_bytes();
        NewFile { md5: Md5Sum::of(bytes), blake3: blake3::hash(bytes), bytes: Some(bytes.to_vec()) }
    }

    fn installed(path: &str, keeper: Keeper, local: Option<&str>) -> Conffile {
        let recorded = Md5Sum::of(b"old");
        let local = match local {
            None => Local::Missing,
            Some("old") => Local::Unchanged,
            Some(text) => Local::Changed(Md5Sum::of(text.as_bytes())),
        };
        Conffile { path: path.into(), package: "p".into(), keeper, recorded, obsolete: false, local }
    }

    fn upstream() -> Upstream {
        let p = Control {
            package: "p".into(),
            conffiles: ["/both", "/mine", "/same", "/deleted", "/theirs"].map(PathBuf::from).into(),
            removed: [PathBuf::from("/aside")].into(),
            renamed: [(PathBuf::from("/before"), PathBuf::from("/after"))].into(),
            ..Control::default()
        };
        let q = Control {
            package: "q".into(),
            conffiles: [PathBuf::from("/moved")].into(),
            ..Control::default()
        };
        let files =
            ["/both", "/same", "/deleted", "/theirs", "/moved"].map(|path| (path.into(), file("new")));
        let mut files = BTreeMap::from(files);
        files.insert("/mine".into(), file("old"));
        Upstream { packages: [("p".to_owned(), p), ("q".to_owned(), q)].into(), files }
    }

    #[test]
    fn every_outcome() {
        let dpkg = |path: &str, local| installed(path, Keeper::Dpkg, local);
        let mut stock = Stock {
            conffiles: vec![
                dpkg("/both", Some("me")),
                dpkg("/mine", Some("me")),
                dpkg("/same", Some("new")),
                dpkg("/deleted", None),
                dpkg("/theirs", Some("old")),
                dpkg("/aside", Some("me")),
                dpkg("/before", Some("me")),
                dpkg("/moved", Some("me")),
                dpkg("/left", Some("me")),
                dpkg("/left-and-deleted", None),
                installed("/ucf", Keeper::Ucf, Some("me")),
            ],
            ..Stock::default()
        };
        stock.conffiles.push(Conffile { package: "other".into(), ..dpkg("/other", Some("me")) });
        let found = predict(&stock, &upstream());
        let shown: Vec<_> = found
            .iter()
            .map(|one| (one.path.to_str().unwrap(), one.package.as_str(), one.outcome.clone()))
            .collect();
        assert_eq!(
            shown,
            [
                ("/aside", "p", Outcome::PutAside),
                ("/before", "p", Outcome::Renamed("/after".into())),
                ("/both", "p", Outcome::Asked),
                ("/deleted", "p", Outcome::Asked),
                ("/left", "p", Outcome::LeftBehind),
                ("/mine", "p", Outcome::Stays),
                ("/moved", "q", Outcome::Asked),
                ("/other", "other", Outcome::NotUpgraded),
                ("/same", "p", Outcome::Same),
                ("/ucf", "p", Outcome::PerhapsAsked),
            ]
        );
        assert_eq!(wanted(&stock), ["other", "p"]);
    }

    #[test]
    fn a_file_of_nobody_that_a_package_brings() {
        let local = BTreeMap::from([
            (PathBuf::from("/both"), Md5Sum::of(b"me")),
            (PathBuf::from("/same"), Md5Sum::of(b"new")),
        ]);
        let found = unowned(&[Path::new("/moved")].into(), &upstream(), &local);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_path(), &found[0].outcome), (Path::new("/both"), &Outcome::Asked));
    }
}
