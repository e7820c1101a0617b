"""The CUDA kernels' source compiles: by NVRTC, which needs no GPU, as libtorch's run-time compiler would do it."""

import ctypes
import re
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src/libtorch/cpp/quantize_cuda.cpp"
#: What libtorch generates around an elementwise kernel, reduced to its calls.
CALLS = """
extern "C" __global__ void forward(float* out, const float* in, float low, float high, float sign, float half) {
  out[0] = dimbit_quantize<float>(in[0], in[1], in[2], in[3], low, high, sign, half);
}
extern "C" __global__ void backward(float* out, const float* in, float low, float high, float sign, float half) {
  dimbit_quantize_backward<float>(in[0], in[1], in[2], in[3], in[4], low, high, sign, half, out[0], out[1], out[2]);
}
"""


def nvrtc():
    """NVRTC of PyTorch's wheel, with its builtins loaded first, as they are found by no path."""
    folders = [*ROOT.glob(".venv/lib/python3*/site-packages/nvidia/*/lib"), ROOT / ".libtorch/lib"]
    for folder in folders:
        libraries = [path for path in folder.glob("libnvrtc.so*") if path.name.count(".") == 2]
        if libraries:
            for builtins in folder.glob("libnvrtc-builtins.so*"):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(libraries[0]))
    return None


def text(library, what, program):
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()


class CudaKernels(unittest.TestCase):
    def test_they_compile_and_round_as_the_cpu_does(self):
        library = nvrtc()
        if library is None:
            print("this libtorch has no NVRTC: nothing to compile CUDA kernels with", file=sys.stderr)
            return
        kernels = re.findall(r'R"\((.*?)\)"', SOURCE.read_text(encoding="utf-8"), re.DOTALL)
        self.assertEqual(len(kernels), 2)
        program = ctypes.c_void_p()
        source = ("\n".join(kernels) + CALLS).encode()
        self.assertEqual(library.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None), 0)
        options = [b"-default-device", b"--std=c++17", b"--gpu-architecture=compute_80"]
        code = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        self.assertEqual(code, 0, text(library, "ProgramLog", program))
        ptx = text(library, "PTX", program)
        # IEEE divisions, halves to even, and no product fused with a sum: codes are those of the CPU.
        self.assertEqual(ptx.count("cvt.rni.f32.f32"), 2, ptx)
        self.assertEqual(ptx.count("div.rn.f32") + ptx.count("rcp.rn.f32"), 4, ptx)
        self.assertNotIn("fma", ptx)


if __name__ == "__main__":
    unittest.main()
