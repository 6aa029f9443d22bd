//! The task head: a family's classification head, trained in full.

use burn::{
    module::{Module, Param},
    nn::Linear,
    tensor::{Tensor, TensorData, activation::relu, backend::Backend},
};
use vblora::{
    Noise,
    backend::VbLoraBackend,
    noise::dropout,
    ops::{gelu, log_softmax, matmul, tanh_gelu},
    rng::Key,
};

use crate::{
    Activation, Error, HeadActivation, HeadForm, HostTensor, Result, error::Misshapen,
    upload::host_tensor,
};

/// How a fresh head is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeadInit {
    /// RoBERTa's: normal weights with this standard deviation (`initializer_range`), zero biases.
    Normal(f64),
    /// torch's `Linear`: weights and biases uniform in `1 / sqrt(d_in)`.
    Torch,
}

/// Dense, a function, dropout and projection on the first of the hidden states that it is given. RoBERTa's form has dropout before the
/// first map too.
///
/// One output is regression; more are the scores of as many classes.
#[derive(Module, Debug)]
pub struct ClassificationHead<B: Backend> {
    /// `[d, d]`, if the base does not hold it.
    pub dense: Option<Linear<B>>,
    /// `[d, labels]`
    pub out_proj: Linear<B>,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    form: HeadForm,
}

impl<B: VbLoraBackend> ClassificationHead<B> {
    /// A fresh head; its values depend on `seed` alone.
    pub fn init(
        form: HeadForm,
        [d, labels]: [usize; 2],
        dropout: f64,
        init: HeadInit,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        let key = Key::new(seed).name("head");
        let dense = || draw(key.name("dense"), d, d, init, device);
        Self {
            dense: form.has_dense.then(dense),
            out_proj: draw(key.name("out_proj"), d, labels, init, device),
            dropout,
            form,
        }
    }

    /// A head of RoBERTa's form from two pairs of weight `[d_in, d_out]` and bias `[d_out]`.
    pub fn new(
        dense: (Tensor<B, 2>, Tensor<B, 1>),
        out_proj: (Tensor<B, 2>, Tensor<B, 1>),
        dropout: f64,
    ) -> Self {
        Self {
            dense: Some(linear(dense)),
            out_proj: linear(out_proj),
            dropout,
            form: HeadForm::ROBERTA,
        }
    }

    /// A head from its tensors as [`tensors`](Self::tensors) gives them; `file` is where they come from, for messages.
    ///
    /// # Errors
    /// A tensor is missing, has another shape than a head's, or is none of a head's.
    pub fn from_tensors(
        form: HeadForm,
        file: &str,
        tensors: &[(String, HostTensor)],
        dropout: f64,
        device: &B::Device,
    ) -> Result<Self> {
        let find = |part: &str| {
            let name = format!("classifier.{part}");
            let found = tensors.iter().find(|(found, _)| *found == name);
            found.ok_or_else(|| Error::NoTensor {
                file: file.to_owned(),
                tensor: name,
            })
        };
        let parts: &[&str] = match form.has_dense {
            true => &["dense", "out_proj"],
            false => &["out_proj"],
        };
        let is_of_head = |name: &str| {
            let part = name.strip_prefix("classifier.").unwrap_or_default();
            let mut names = parts
                .iter()
                .flat_map(|part| ["weight", "bias"].map(|of| format!("{part}.{of}")));
            names.any(|name| name == part)
        };
        let names = tensors.iter().map(|(name, _)| name.clone());
        let unexpected: Vec<_> = names.filter(|name| !is_of_head(name)).collect();
        if !unexpected.is_empty() {
            return Err(Error::SavedTensors {
                place: file.to_owned(),
                unexpected,
                misshapen: Vec::new(),
            });
        }
        let labels = find("out_proj.bias")?.1.values.len();
        // The first map is square, and without one the weight of the last says how wide the hidden states are.
        let d = match form.has_dense {
            true => find("dense.bias")?.1.values.len(),
            false => find("out_proj.weight")?.1.values.len() / labels.max(1),
        };
        let read = |part: &str, shape: &[usize]| {
            let (name, tensor) = find(part)?;
            if tensor.shape == shape {
                return Ok(TensorData::new(tensor.values.clone(), tensor.shape.clone()));
            }
            Err(Error::Shape {
                file: file.to_owned(),
                tensor: Misshapen {
                    tensor: name.clone(),
                    expected: shape.to_vec(),
                    found: tensor.shape.clone(),
                },
            })
        };
        let map = |part: &str, d_out: usize| {
            let weight = read(&format!("{part}.weight"), &[d_out, d])?;
            let bias = read(&format!("{part}.bias"), &[d_out])?;
            let bias = Tensor::<B, 1>::from_data(bias, device);
            let weight = Tensor::<B, 2>::from_data(weight, device).transpose();
            Ok::<_, Error>(linear((weight, bias)))
        };
        Ok(Self {
            dense: form.has_dense.then(|| map("dense", d)).transpose()?,
            out_proj: map("out_proj", labels)?,
            dropout,
            form,
        })
    }

    /// # Shapes
    /// - hidden: `[n, t, d]`; only the first of each row's t is read
    /// - output: `[n, labels]`
    pub fn forward(&self, hidden: Tensor<B, 3>, noise: Option<Noise>) -> Tensor<B, 2> {
        let [n, _, d] = hidden.dims();
        let mut x = hidden.slice([0..n, 0..1, 0..d]).reshape([n, d]);
        if let Some(dense) = &self.dense {
            if self.form.drops_input {
                x = dropout(x, self.dropout, noise, "head.input");
            }
            x = self.form.activation.apply(dense.forward(x));
        }
        let x = dropout(x, self.dropout, noise, "head.dense");
        // A regression has one column.
        let output = matmul(x, self.out_proj.weight.val());
        match &self.out_proj.bias {
            Some(bias) => output + bias.val().unsqueeze(),
            None => output,
        }
    }

    /// The head's tensors by their Hugging Face names, weights as torch stores them (`[d_out, d_in]`).
    pub fn tensors(&self) -> Vec<(String, HostTensor)> {
        let of = |name: &str, linear: &Linear<B>| {
            let weight = (
                format!("classifier.{name}.weight"),
                host_tensor(linear.weight.val().transpose()),
            );
            let bias = linear
                .bias
                .as_ref()
                .map(|bias| (format!("classifier.{name}.bias"), host_tensor(bias.val())));
            std::iter::once(weight).chain(bias).collect::<Vec<_>>()
        };
        let dense = self.dense.iter().flat_map(|dense| of("dense", dense));
        dense.chain(of("out_proj", &self.out_proj)).collect()
    }
}

impl HeadActivation {
    /// The function, element by element.
    pub(crate) fn apply<B: VbLoraBackend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::Tanh => x.tanh(),
            Self::Of(activation) => activation.apply(x),
        }
    }
}

impl Activation {
    /// The function, element by element.
    pub(crate) fn apply<B: VbLoraBackend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::Gelu => gelu(x),
            Self::GeluTanh => tanh_gelu(x),
            Self::Relu => relu(x),
        }
    }
}

fn linear<B: Backend>((weight, bias): (Tensor<B, 2>, Tensor<B, 1>)) -> Linear<B> {
    Linear {
        weight: Param::from_tensor(weight),
        bias: Some(Param::from_tensor(bias)),
    }
}

fn draw<B: Backend>(
    key: Key,
    d_in: usize,
    d_out: usize,
    init: HeadInit,
    device: &B::Device,
) -> Linear<B> {
    let (weight, bias) = match init {
        HeadInit::Normal(std) => (
            key.name("weight").normal(d_in * d_out, std),
            vec![0.0; d_out],
        ),
        HeadInit::Torch => {
            let bound = 1.0 / (d_in as f64).sqrt();
            let uniform = |name, n| key.name(name).uniform(n, -bound, bound);
            (uniform("weight", d_in * d_out), uniform("bias", d_out))
        }
    };
    Linear {
        weight: Param::from_tensor(Tensor::from_data(
            TensorData::new(weight, [d_in, d_out]),
            device,
        )),
        bias: Some(Param::from_tensor(Tensor::from_data(
            TensorData::new(bias, [d_out]),
            device,
        ))),
    }
}

/// The mean loss of a batch.
///
/// - Class ids: the cross-entropy of `[n, classes]`. With weights it is the sum of weighted losses over the sum of weights, as torch's
///   `CrossEntropyLoss`, and 0 if that sum is 0.
/// - Sets of class ids: the binary cross-entropy of `[n, classes]`, averaged over all n times classes outputs, as torch's
///   `BCEWithLogitsLoss`.
/// - Scores: the squared error of `[n, 1]`.
pub fn loss<B: VbLoraBackend>(output: Tensor<B, 2>, labels: &Labels) -> Tensor<B, 1> {
    let device = output.device();
    match labels {
        Labels::Classes(classes) => of_classes(output, classes).mean().neg(),
        Labels::Weighted { classes, weights } => {
            let sum: f64 = weights.iter().copied().map(f64::from).sum();
            // Weights that are all 0 leave no loss.
            let share = |weight: &f32| match sum > 0.0 {
                true => (f64::from(*weight) / sum) as f32,
                false => 0.0,
            };
            let shares: Vec<f32> = weights.iter().map(share).collect();
            let shares = TensorData::new(shares, [weights.len(), 1]);
            let shares = Tensor::<B, 2>::from_data(shares, &device);
            (of_classes(output, classes) * shares).sum().neg()
        }
        Labels::Sets(sets) => binary_cross_entropy(output, sets),
        Labels::Scores(scores) => {
            let scores = Tensor::<B, 2>::from_data(
                TensorData::new(scores.clone(), [scores.len(), 1]),
                &device,
            );
            (output - scores).square().mean()
        }
    }
}

/// The logarithm of the probability of each row's class, `[n, 1]`.
fn of_classes<B: VbLoraBackend>(output: Tensor<B, 2>, classes: &[usize]) -> Tensor<B, 2> {
    let ids: Vec<i32> = classes.iter().map(|&c| c as i32).collect();
    let ids = TensorData::new(ids, [classes.len(), 1]);
    let ids = Tensor::from_data(ids, &output.device());
    log_softmax(output).gather(1, ids)
}

/// Binary cross-entropy of logits: `ln(1 + exp(x)) - x y`. A log-softmax over `[0, x]` gives the first term. It does not overflow, and its
/// gradient at 0 is that of the formula.
fn binary_cross_entropy<B: VbLoraBackend>(
    output: Tensor<B, 2>,
    sets: &[Vec<usize>],
) -> Tensor<B, 1> {
    let [n, classes] = output.dims();
    let mut targets = vec![0.0f32; n * classes];
    for (row, set) in sets.iter().enumerate() {
        for class in set {
            targets[row * classes + class] = 1.0;
        }
    }
    let values = n * classes;
    let targets = Tensor::from_data(TensorData::new(targets, [values, 1]), &output.device());
    let output = output.reshape([values, 1]);
    let pairs = Tensor::cat(vec![output.zeros_like(), output.clone()], 1);
    let softplus = log_softmax(pairs).narrow(1, 0, 1).neg();
    (softplus - output * targets).mean()
}

/// The labels of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// Class ids, below the head's number of outputs.
    Classes(Vec<usize>),
    /// Class ids, below the head's number of outputs, and the weight of each row in the loss.
    Weighted {
        /// The class of each row.
        classes: Vec<usize>,
        /// As many, at least 0.
        weights: Vec<f32>,
    },
    /// For each row, class ids below the head's number of outputs (multi-label).
    Sets(Vec<Vec<usize>>),
    /// Real values.
    Scores(Vec<f32>),
}
