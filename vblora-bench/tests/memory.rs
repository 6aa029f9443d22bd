//! Memory over many evaluations. The test has its own process, so that nothing else changes the memory.
#![allow(missing_docs)]
#![cfg(all(feature = "flex", target_os = "linux"))]

use burn::backend::Flex;
use vblora_bench::{
    demo,
    recipes::{Recipe, Size},
    tasks::{SplitName, Task},
};

/// A tracked forward pass without a backward pass would leak. Evaluation must not make one.
#[test]
fn memory_stays_flat_over_two_hundred_evaluations() {
    use burn::backend::Autodiff;
    use vblora::AdapterConfig;
    use vblora_bench::train::{EncodedSplit, Learner, Trained};
    use vblora_models::{ClassificationHead, Encoder, HeadForm, HeadInit, TextTokenizer, encoder};
    let device = Default::default();
    let files = demo::model_files();
    let (base, _) = Encoder::<Flex>::load(&files, &device).unwrap();
    let mut dev = demo::split(SplitName::Dev).unwrap();
    dev.examples.truncate(16);
    let split = EncodedSplit::new(&dev, &TextTokenizer::from_files(&files).unwrap(), 32).unwrap();
    let recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
    let plan = encoder::targets("all")
        .unwrap()
        .select(&base.sites())
        .unwrap();
    let adapter = AdapterConfig::VbLora(recipe.vblora.clone())
        .init::<Autodiff<Flex>>(&plan, 1, &device)
        .unwrap();
    let head = ClassificationHead::init(
        HeadForm::ROBERTA,
        [256, 2],
        0.0,
        HeadInit::Normal(0.02),
        1,
        &device,
    );
    let learner = Learner::new(
        &base,
        Trained::Adapter(Box::new(adapter)),
        head,
        &recipe,
        1,
        &device,
    );
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
            * 4096
    };
    (0..20).for_each(|_| drop(learner.predict(&split, 16).unwrap()));
    let before = resident();
    (0..200).for_each(|_| drop(learner.predict(&split, 16).unwrap()));
    let grown = resident().saturating_sub(before);
    // One tracked forward of these 16 sentences holds more than 5 MB.
    assert!(
        grown < 60 << 20,
        "{} MB more after 200 evaluations",
        grown >> 20
    );
}
