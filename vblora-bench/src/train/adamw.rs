//! AdamW with the arithmetic of torch.

use std::collections::BTreeMap;

use burn::{
    backend::Autodiff,
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use derive_new::new;
use vblora::{
    backend::{AdamWStep, Clip, VbLoraBackend},
    ops,
};

use super::{
    parameters::{Gradients, is_small, join, update},
    touched::Touched,
};
use crate::recipes::AdamSettings;

/// The update rule of one parameter in one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Learning rate, with the schedule's factor.
    pub lr: f64,
    /// Weight decay, multiplied by the learning rate.
    pub decay: f64,
    /// The maximum number of elements of a matrix row with a gradient, if the gradient of all others is exactly zero. Without weight decay,
    /// only elements that once had a gradient then have moments.
    pub selected: Option<usize>,
}

/// AdamW (Loshchilov and Hutter 2019) with torch's order of operations. Scalars, including bias corrections, are f64. Burn's AdamW computes
/// them in f32 and deviates by 4e-6 after 20 steps.
#[derive(Debug, Clone, new)]
pub struct AdamW<B: VbLoraBackend> {
    settings: AdamSettings,
    #[new(default)]
    step: i32,
    /// How this step's gradients are clipped.
    #[new(default)]
    clip: Option<Clip<Tensor<B, 1>>>,
    /// Moments of parameters that are updated alone.
    #[new(default)]
    moments: BTreeMap<String, Moments<B>>,
    /// Moments of parameters that are updated in groups.
    #[new(default)]
    groups: Vec<Group<B>>,
}

/// Values of parameters, flat, by path.
type Named<B> = Vec<(String, Tensor<B, 1>)>;

/// Small parameters with one rule, concatenated.
#[derive(Debug, Clone)]
struct Group<B: VbLoraBackend> {
    paths: Vec<String>,
    sizes: Vec<usize>,
    moments: [Tensor<B, 1>; 2],
}

impl<B: VbLoraBackend> Group<B> {
    /// The moments of each parameter.
    fn into_each(self) -> impl Iterator<Item = (String, Moments<B>)> {
        let [first, second] = self
            .moments
            .map(|moment| moment.split_with_sizes(self.sizes.clone(), 0));
        let each = first.into_iter().zip(second);
        let each = each.map(|(first, second)| Moments::Whole([first, second]));
        self.paths.into_iter().zip(each)
    }
}

/// First and second moment of a parameter.
#[derive(Debug, Clone)]
pub enum Moments<B: Backend> {
    /// Moments of every element, flat.
    Whole([Tensor<B, 1>; 2]),
    /// Moments of the elements that once had a gradient.
    Touched(Touched<B>),
}

impl<B: VbLoraBackend> Moments<B> {
    /// The moments of every element, flat.
    pub fn to_whole(&self) -> [Tensor<B, 1>; 2] {
        match self {
            Self::Whole(moments) => moments.clone(),
            Self::Touched(touched) => touched.to_whole(),
        }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Whole([first, _]) => 8 * first.shape().num_elements(),
            Self::Touched(touched) => touched.bytes(),
        }
    }
}

impl<B: VbLoraBackend> AdamW<B> {
    /// Steps taken, and the moments of each parameter that once had a gradient, by path.
    pub fn state(&self) -> (i32, BTreeMap<String, Moments<B>>) {
        let mut moments = self.moments.clone();
        moments.extend(self.groups.iter().cloned().flat_map(Group::into_each));
        (self.step, moments)
    }

    /// Continues from another optimizer's [`state`](Self::state).
    pub(super) fn restore(&mut self, step: i32, moments: BTreeMap<String, Moments<B>>) {
        (self.step, self.moments) = (step, moments);
        self.groups.clear();
    }

    /// Starts an optimizer step, with gradients that are still to be clipped, if any. Then call [`apply`](Self::apply) once for each module.
    pub fn begin_step(&mut self, clip: Option<Clip<Tensor<B, 1>>>) {
        self.step += 1;
        self.clip = clip;
    }

    /// Updates the parameters of `module` that have a gradient. `rule(path, number of dimensions)` gives their rule.
    pub fn apply<M: Module<Autodiff<B>>>(
        &mut self,
        prefix: &str,
        module: M,
        grads: &Gradients<B>,
        rule: impl Fn(&str, usize) -> Rule,
    ) -> M {
        let mut groups: Vec<(Rule, Named<B>)> = Vec::new();
        let module = update(prefix, module, |path, shape, value| {
            let rule = rule(path, shape.len());
            if grads.has(path) && is_small(&value) && rule.selected.is_none() {
                let named = (path.to_owned(), value);
                match groups.iter_mut().find(|(of, _)| *of == rule) {
                    Some((_, group)) => group.push(named),
                    None => groups.push((rule, vec![named])),
                }
            }
            None
        });
        let mut joined = BTreeMap::new();
        for (rule, group) in groups {
            joined.extend(self.apply_to_group(rule, group, grads));
        }
        update(prefix, module, |path, shape, value| {
            if let Some(value) = joined.remove(path) {
                return Some(value);
            }
            let grad = grads.get(path)?;
            let rule = rule(path, shape.len());
            let known = self.moments.remove(path);
            let (value, moments) = match (shape, rule.selected) {
                (&[rows, columns], Some(per_row)) if rule.decay == 0.0 => {
                    let shape = [rows, columns];
                    let touched = match known {
                        Some(Moments::Touched(touched)) => touched,
                        // These moments come from a resumed run.
                        Some(Moments::Whole(moments)) => Touched::of_whole(&moments, shape),
                        None => Touched::none(shape, &value.device()),
                    };
                    let matrix = |flat: Tensor<B, 1>| flat.reshape(shape);
                    let touched = self.touched(matrix(value), matrix(grad), rule, touched, per_row);
                    (touched.0.reshape([rows * columns]), touched.1)
                }
                _ => {
                    let known = known.map(|moments| moments.to_whole());
                    let (value, moments) = self.whole(value, grad, rule, known);
                    (value, Moments::Whole(moments))
                }
            };
            self.moments.insert(path.to_owned(), moments);
            Some(value)
        })
    }

    /// Updates parameters with one rule as one tensor, so that a GPU gets one set of launches for all. Returns their new values by path.
    fn apply_to_group(&mut self, rule: Rule, group: Named<B>, grads: &Gradients<B>) -> Named<B> {
        let sizes: Vec<_> = group.iter().map(|(_, value)| value.dims()[0]).collect();
        let (paths, values): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let known = self.known_of_group(&paths, &sizes, &values[0].device());
        let grad = grads.joined(paths.iter().map(String::as_str));
        let (value, moments) = self.whole(join(values), grad, rule, known);
        let values = value.split_with_sizes(sizes.clone(), 0);
        self.groups.push(Group {
            paths: paths.clone(),
            sizes,
            moments,
        });
        paths.into_iter().zip(values).collect()
    }

    /// The moments of a group's parameters, if any exist. They are stored together from step to step. They are stored separately after a
    /// resumed run, or after a step with gradients for other parameters.
    fn known_of_group(
        &mut self,
        paths: &[String],
        sizes: &[usize],
        device: &B::Device,
    ) -> Option<[Tensor<B, 1>; 2]> {
        if let Some(at) = self.groups.iter().position(|group| group.paths == paths) {
            return Some(self.groups.swap_remove(at).moments);
        }
        let (mixed, others) = std::mem::take(&mut self.groups)
            .into_iter()
            .partition(|group| group.paths.iter().any(|path| paths.contains(path)));
        self.groups = others;
        self.moments
            .extend(mixed.into_iter().flat_map(Group::into_each));
        let known: Vec<_> = paths
            .iter()
            .map(|path| self.moments.remove(path).map(|moments| moments.to_whole()))
            .collect();
        known.iter().any(Option::is_some).then(|| {
            [0, 1].map(|which| {
                let of = known.iter().zip(sizes).map(|(known, &size)| match known {
                    Some(moments) => moments[which].clone(),
                    None => Tensor::zeros([size], device),
                });
                join(of.collect())
            })
        })
    }

    fn whole(
        &self,
        value: Tensor<B, 1>,
        grad: Tensor<B, 1>,
        rule: Rule,
        known: Option<[Tensor<B, 1>; 2]>,
    ) -> (Tensor<B, 1>, [Tensor<B, 1>; 2]) {
        ops::adamw(value, grad, known, self.numbers(rule), self.clip.clone())
    }

    /// The numbers of this step. They are computed in f64.
    fn numbers(&self, rule: Rule) -> AdamWStep {
        let AdamSettings { beta1, beta2, eps } = self.settings;
        let correction = |beta: f64| 1.0 - beta.powi(self.step);
        AdamWStep {
            betas: [beta1, beta2],
            epsilon: eps,
            rate: rule.lr / correction(beta1),
            correction: correction(beta2).sqrt(),
            shrink: 1.0 - rule.lr * rule.decay,
        }
    }

    fn touched(
        &self,
        value: Tensor<B, 2>,
        grad: Tensor<B, 2>,
        rule: Rule,
        mut known: Touched<B>,
        per_row: usize,
    ) -> (Tensor<B, 2>, Moments<B>) {
        known.touch(&grad, per_row);
        // The step of a value of zero is the change with its sign turned.
        let (turned, moments) = {
            let (grad, [first, second]) = (known.read(grad), known.moments.clone());
            let zeros = first.zeros_like();
            let moments = Some([first, second]);
            ops::adamw(zeros, grad, moments, self.numbers(rule), self.clip.clone())
        };
        known.moments = moments;
        let step = turned.neg();
        (known.subtract(value, step), Moments::Touched(known))
    }
}
