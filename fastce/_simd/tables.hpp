// The tables of functions.hpp, computed by tools/polynomials.py.
#pragma once

namespace {
namespace simd {

// 2^(i/16), and the rounding error of each, relative to it.
constexpr float exp2_table[16] = {
    0x1.000000p0f, 0x1.0b5586p0f, 0x1.172b84p0f, 0x1.2387a6p0f, 0x1.306fe0p0f, 0x1.3dea64p0f,
    0x1.4bfdaep0f, 0x1.5ab07ep0f, 0x1.6a09e6p0f, 0x1.7a1148p0f, 0x1.8ace54p0f, 0x1.9c4918p0f,
    0x1.ae89fap0f, 0x1.c199bep0f, 0x1.d5818ep0f, 0x1.ea4afap0f};
constexpr float exp2_table_low[16] = {
    0x0.000000p0f, 0x1.8d96d2p-25f, -0x1.9c0c22p-27f, 0x1.964902p-25f, 0x1.125002p-25f, 0x1.370be4p-25f,
    -0x1.0a3552p-25f, -0x1.00d8acp-27f, 0x1.26055cp-26f, -0x1.05cb44p-25f, 0x1.67a1cap-28f, 0x1.a3b5e4p-28f,
    -0x1.f9c306p-27f, -0x1.6961b4p-28f, -0x1.a5217cp-28f, 0x1.61428ep-28f};

// c 2^(i/4), for the c in [1, 2) that makes all four nearly floats: none is farther from a float than 0.005 ULP.
constexpr float quarter_multiples[4] = {0x1.c856a0p0f, 0x1.0f5726p1f, 0x1.42ae12p1f, 0x1.7fbbbap1f};

// c near 1 / (1 + i / 31), and -log c. Each c was chosen among the 1,023 nearest floats so that its logarithm is nearly
// a float itself (S. Gal, "Computing elementary functions: a new approach for achieving high accuracy and good
// performance", in: Accurate Scientific Computations, LNCS 235, Springer 1986).
alignas(64) constexpr float inverses[32] = {
    0x1.000000p0f, 0x1.f0025ap-1f, 0x1.e0fb2ep-1f, 0x1.d2d5aap-1f, 0x1.c57914p-1f, 0x1.b8dfacp-1f,
    0x1.acf76ep-1f, 0x1.a1b172p-1f, 0x1.96fbdap-1f, 0x1.8cd04ep-1f, 0x1.8321b2p-1f, 0x1.79e7a8p-1f,
    0x1.711fe0p-1f, 0x1.68bc32p-1f, 0x1.60b248p-1f, 0x1.59091cp-1f, 0x1.51b712p-1f, 0x1.4aae4cp-1f,
    0x1.43ed5cp-1f, 0x1.3d6d3cp-1f, 0x1.37344cp-1f, 0x1.313efap-1f, 0x1.2b74e0p-1f, 0x1.25eec8p-1f,
    0x1.2098e0p-1f, 0x1.1b69fap-1f, 0x1.1672d6p-1f, 0x1.11aa86p-1f, 0x1.0d0712p-1f, 0x1.088a0ap-1f,
    0x1.043504p-1f, 0x1.0003fep-1f};
alignas(64) constexpr float logarithms[32] = {
    0x0.000000p0f, 0x1.03ef02p-5f, 0x1.fff8aap-5f, 0x1.7a4386p-4f, 0x1.f13592p-4f, 0x1.324fbcp-3f,
    0x1.6a6288p-3f, 0x1.a0ed46p-3f, 0x1.d61ef8p-3f, 0x1.04f96ep-2f, 0x1.1e44f2p-2f, 0x1.36f86cp-2f,
    0x1.4f0b0ep-2f, 0x1.6695c0p-2f, 0x1.7da984p-2f, 0x1.94263ap-2f, 0x1.aa1bdep-2f, 0x1.bfa9bcp-2f,
    0x1.d4cb10p-2f, 0x1.e98d34p-2f, 0x1.fdd2f6p-2f, 0x1.08cf4ep-1f, 0x1.129d2ap-1f, 0x1.1c2582p-1f,
    0x1.2586a2p-1f, 0x1.2ece14p-1f, 0x1.37dacep-1f, 0x1.40b994p-1f, 0x1.497a38p-1f, 0x1.521772p-1f,
    0x1.5a8baap-1f, 0x1.62dc34p-1f};

}  // namespace simd
}  // namespace
