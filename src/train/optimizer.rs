//! The optimizers, with their state in the open: SGD for weights, Adam for steps and ranges.

use tch::{Tensor, no_grad};

use super::error::TrainError;
use super::resume::{Tensors, fitting, on_cpu};
use crate::libtorch::LibtorchError;

/// Stochastic gradient descent with momentum and L2 weight decay, as `torch.optim.SGD`: `v ← m·v + g + w·λ`, `w ← w − η·v`.
#[derive(Debug)]
pub struct Sgd {
    parameters: Vec<Tensor>,
    velocity: Vec<Option<Tensor>>,
    momentum: f64,
    weight_decay: f64,
}

impl Sgd {
    /// `parameters` share their storage with the network's.
    pub fn new(parameters: Vec<Tensor>, momentum: f64, weight_decay: f64) -> Self {
        let velocity = parameters.iter().map(|_| None).collect();
        Self { parameters, velocity, momentum, weight_decay }
    }

    /// One step, then forgets the gradients.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn step(&mut self, learning_rate: f64) -> Result<(), LibtorchError> {
        no_grad(|| {
            for (parameter, velocity) in self.parameters.iter_mut().zip(&mut self.velocity) {
                let mut gradient = parameter.f_grad()?;
                if !gradient.defined() {
                    continue;
                }
                // One pass over memory each: g + λ·w into the velocity, then w − η·v.
                if let Some(v) = velocity.as_mut() {
                    let _ = v.f_mul_scalar_(self.momentum)?.f_add_(&gradient)?;
                } else {
                    // A product by 1 is a copy in the layout of the gradient.
                    *velocity = Some(gradient.f_mul_scalar(1.0)?);
                }
                if let Some(v) = velocity.as_mut() {
                    if self.weight_decay > 0.0 {
                        let _ = v.f_add_(&parameter.f_mul_scalar(self.weight_decay)?)?;
                    }
                    let _ = parameter.f_sub_(&v.f_mul_scalar(learning_rate)?)?;
                }
                let _ = gradient.f_zero_()?;
            }
            Ok(())
        })
    }

    /// Adds `velocity.<name>.<index>` of the parameters that have one.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn save(&self, name: &str, tensors: &mut Vec<(String, Tensor)>) -> Result<(), LibtorchError> {
        for (index, velocity) in self.velocity.iter().enumerate() {
            if let Some(velocity) = velocity {
                tensors.push((format!("velocity.{name}.{index}"), on_cpu(velocity)?));
            }
        }
        Ok(())
    }

    /// The way back from [`Self::save`].
    ///
    /// # Errors
    /// If a velocity doesn't fit its parameter.
    pub fn restore(&mut self, name: &str, tensors: &Tensors) -> Result<(), TrainError> {
        for (index, parameter) in self.parameters.iter().enumerate() {
            let name = format!("velocity.{name}.{index}");
            self.velocity[index] = match tensors.contains_key(&name) {
                true => Some(laid_out_like(parameter, fitting(tensors, &name, parameter)?)?),
                false => None,
            };
        }
        Ok(())
    }
}

/// A copy in the place and layout of a parameter.
fn laid_out_like(parameter: &Tensor, saved: &Tensor) -> Result<Tensor, LibtorchError> {
    no_grad(|| {
        let mut copy = parameter.f_zeros_like()?;
        copy.f_copy_(saved)?;
        Ok(copy)
    })
}

/// Adam (Kingma & Ba 2015) without weight decay.
#[derive(Debug)]
pub struct Adam {
    parameters: Vec<Tensor>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: i32,
}

/// Decay of the mean and of the squared mean: short memories, since a search takes hundreds of steps.
const BETAS: (f64, f64) = (0.9, 0.99);

impl Adam {
    /// `parameters` are leaves with gradient.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn new(parameters: Vec<Tensor>) -> Result<Self, LibtorchError> {
        let zeros = || parameters.iter().map(Tensor::f_zeros_like).collect::<Result<Vec<_>, _>>();
        let (first, second) = (zeros()?, zeros()?);
        Ok(Self { parameters, first, second, steps: 0 })
    }

    /// One step, then forgets the gradients.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn step(&mut self, learning_rate: f64) -> Result<(), LibtorchError> {
        self.steps += 1;
        let (mean, square) = BETAS;
        let bias = |beta: f64| 1.0 - beta.powi(self.steps);
        no_grad(|| {
            for (index, parameter) in self.parameters.iter_mut().enumerate() {
                let mut gradient = parameter.f_grad()?;
                if !gradient.defined() {
                    continue;
                }
                let m = self.first[index].f_lerp(&gradient, 1.0 - mean)?;
                let v = self.second[index].f_lerp(&gradient.f_square()?, 1.0 - square)?;
                let scale = v.f_div_scalar(bias(square))?.f_sqrt()?.f_add_scalar(1e-12)?;
                let step = m.f_div_scalar(bias(mean))?.f_div(&scale)?.f_mul_scalar(learning_rate)?;
                let _ = parameter.f_sub_(&step)?;
                (self.first[index], self.second[index]) = (m, v);
                let _ = gradient.f_zero_()?;
            }
            Ok(())
        })
    }

    /// Adds `adam.first.<index>` and `adam.second.<index>`. Returns the number of steps.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn save(&self, tensors: &mut Vec<(String, Tensor)>) -> Result<i32, LibtorchError> {
        for (name, moments) in [("first", &self.first), ("second", &self.second)] {
            for (index, moment) in moments.iter().enumerate() {
                tensors.push((format!("adam.{name}.{index}"), on_cpu(moment)?));
            }
        }
        Ok(self.steps)
    }

    /// The way back from [`Self::save`], `steps` steps after the start.
    ///
    /// # Errors
    /// If a moment doesn't fit its parameter.
    pub fn restore(&mut self, steps: i32, tensors: &Tensors) -> Result<(), TrainError> {
        for (name, moments) in [("first", &mut self.first), ("second", &mut self.second)] {
            for (index, moment) in moments.iter_mut().enumerate() {
                let saved = fitting(tensors, &format!("adam.{name}.{index}"), moment)?;
                *moment = laid_out_like(moment, saved)?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(value: f32) -> Tensor {
        Tensor::from_slice(&[value]).set_requires_grad(true)
    }

    #[test]
    fn sgd_follows_the_formula() {
        let w = leaf(2.0);
        let mut sgd = Sgd::new(vec![w.shallow_clone()], 0.9, 0.1);
        let (mut value, mut velocity) = (2.0_f64, 0.0);
        for step in 0..4 {
            (&w * &w).sum(tch::Kind::Float).backward();
            sgd.step(0.05).unwrap();
            velocity = if step == 0 { 0.0 } else { 0.9 * velocity } + 2.0 * value + 0.1 * value;
            value -= 0.05 * velocity;
            // Four steps in float32.
            assert!((w.double_value(&[0]) - value).abs() < 1e-6);
        }
    }

    #[test]
    fn optimizers_go_on_where_they_were_saved() {
        let train = |interrupted: bool| {
            let (w, q) = (leaf(2.0), leaf(0.5));
            let make = || {
                let unused = leaf(1.0);
                let sgd = Sgd::new(vec![unused, w.shallow_clone()], 0.9, 0.1);
                (sgd, Adam::new(vec![q.shallow_clone()]).unwrap())
            };
            let (mut sgd, mut adam) = make();
            for step in 0..6 {
                (&w * &w + &q * &w).sum(tch::Kind::Float).backward();
                sgd.step(0.05).unwrap();
                adam.step(0.02).unwrap();
                if interrupted && step == 2 {
                    let mut tensors = Vec::new();
                    sgd.save("weights", &mut tensors).unwrap();
                    let steps = adam.save(&mut tensors).unwrap();
                    assert_eq!((steps, tensors.len()), (3, 3), "what had no gradient has no velocity");
                    (sgd, adam) = make();
                    let tensors: Tensors = tensors.into_iter().collect();
                    sgd.restore("weights", &tensors).unwrap();
                    adam.restore(steps, &tensors).unwrap();
                }
            }
            (w.double_value(&[0]), q.double_value(&[0]))
        };
        assert_eq!(train(true), train(false));
        let wrong = Tensors::from([("velocity.weights.0".to_owned(), Tensor::from_slice(&[1.0_f32, 2.0]))]);
        let error = Sgd::new(vec![leaf(1.0)], 0.9, 0.1).restore("weights", &wrong).unwrap_err().to_string();
        assert!(error.contains("velocity.weights.0"), "{error}");
    }

    #[test]
    fn adam_steps_are_as_long_as_the_learning_rate_whatever_the_gradient() {
        for scale in [1e-6, 1.0, 1e6] {
            let w = leaf(1.0);
            let mut adam = Adam::new(vec![w.shallow_clone()]).unwrap();
            (&w * scale).sum(tch::Kind::Float).backward();
            adam.step(0.02).unwrap();
            assert!((w.double_value(&[0]) - 0.98).abs() < 1e-6, "scale {scale}");
        }
    }
}
