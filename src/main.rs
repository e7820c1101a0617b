//! x
use dimbit::libtorch::*;
use tch::{Tensor,Kind,Device};
fn main() -> anyhow::Result<()> {
    let p = std::env::args().nth(1).unwrap();
    let mut n = Network::load(std::path::Path::new(&p))?;
    n.set_train(false,false)?;
    let x = Tensor::randn([1,3,224,224],(Kind::Float,Device::Cpu));
    let (o, _) = tch::no_grad(|| n.observe(&x))?;
    let mut total=0;
    for (s, sh) in n.survey().sites.iter().zip(&o.sites) { println!("{} {} {:?} {} -> {:?}", s.name, s.kind, sh, s.producer, s.consumers); if let Some(sh)=sh { total += sh.iter().product::<i64>(); } }
    let mut st=0;
    for (s, sh) in n.survey().stored.iter().zip(&o.stored) { println!("stored {} {:?} {:?}", s.name, s.sites, sh);  if let Some(sh)=sh { st += sh.iter().product::<i64>(); } }
    println!("total {total} stored {st} sites {} params {}", o.sites.len(), n.tensors()?.len());
    let y = n.forward_plain(&x)?;
    let y2 = n.forward(&x, |_,_,_| Ok::<_,LibtorchError>(None))?;
    println!("equal {}", y == y2);
    Ok(())
}
