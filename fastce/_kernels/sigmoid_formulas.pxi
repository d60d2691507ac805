# The sigmoid losses: their options, and one vector function per loss.
# Needs batch.pxi.
#
# With e = exp(-|z|): sigma(|z|) = 1 / (1 + e), sigma(-|z|) = e / (1 + e), and
# softplus(z) = max(z, 0) + log1p(e). No 1 - p is formed, and nothing overflows.

cdef struct Bce:
    double unused


cdef struct SigmoidFocal:
    double gamma
    double alpha_positive  # alpha, or 1 for None
    double alpha_negative  # 1 - alpha, or 1
    int whole_gamma        # 0, 1 or 2 if gamma has that value, else -1


cdef SigmoidFocal sigmoid_focal_options(double gamma, double alpha) noexcept nogil:
    cdef SigmoidFocal options
    options.gamma = gamma
    options.whole_gamma = <int> gamma if gamma == 0.0 or gamma == 1.0 or gamma == 2.0 else -1
    options.alpha_positive = 1.0 if alpha < 0.0 else alpha
    options.alpha_negative = 1.0 if alpha < 0.0 else 1.0 - alpha
    return options


ctypedef fused sigmoid_loss:
    Bce
    SigmoidFocal


# The number of derivatives that are wanted: one type each, so that the loop contains no code for the others.
cdef struct ValueOnly:
    char unused


cdef struct WithGradient:
    char unused


cdef struct WithHessian:
    char unused


ctypedef fused derivatives:
    ValueOnly
    WithGradient
    WithHessian


# The assumptions that a loop over a chunk may make, again one type each. All give the same bits.
cdef struct Ordinary:
    # The exponentials of the logits are normal numbers, and in float64 so are their squares; targets are 0 and 1 if the
    # loss distinguishes them; no options are given.
    char unused


cdef struct Plain:
    # No options other than label smoothing are given.
    char unused


cdef struct General:
    # Any options, and per-element losses. An option that is not given is a buffer of ones.
    char unused


ctypedef fused options:
    Ordinary
    Plain
    General


cdef inline vec[real] smaller_sigmoid(vec[real] e) noexcept nogil:
    # sigma(-|z|), given e = exp(-|z|).
    return e / (splat(<real> 1) + e)


cdef inline vec[real] bce(vec[real] z, vec[real] e, vec[real] log_term, vec[real] positive,
                          vec[real] negative, vec[real] total, vec[real] sum, vec[real]* grad,
                          vec[real]* hess, options kind) noexcept nogil:
    # positive softplus(-z) + negative softplus(z), with positive = pos_weight y, negative = 1 - y, and total their sum.
    # The side on which z is wrong has a loss that is larger by |z|. The gradient is total sigma(z) - positive. With
    # sigma(|z|) = 1 - sigma(-|z|) it becomes the one difference below for either sign of z, in which nothing cancels if
    # the prediction is right (wrong = 0). A side of weight 0 has no loss at +-inf. Returns the loss; or, if the loss
    # needs no weighting, `sum` plus the loss, without its logarithm if logarithms are summed separately.
    cdef vec[real] smaller = smaller_sigmoid(e), distance = abs(z)
    cdef vec[real] wrong = select_negative(z, positive, negative)
    grad[0] = flip_sign(wrong - smaller if options is not General else subtract_product(wrong, total, smaller), z)
    hess[0] = total * ((splat(<real> 1) - smaller) * smaller)
    if options is not Ordinary:
        distance = zero_unless(less(splat(<real> 0), wrong), distance)
    if options is General:
        return fmsub(wrong, distance, -(total * log_term))  # written as a sum, so that no loss is -0.0
    else:
        return fma(wrong, distance, sum if real is float else sum + log_term)


cdef inline vec[real] power_of_sigmoid(vec[real] q, vec[real] above, vec[real] log_term,
                                       const SigmoidFocal* loss) noexcept nogil:
    # q^gamma for q = sigma(-x), from -log q = softplus(x) = above + log_term. The exponential would turn the rounding
    # errors of this sum and of its product with gamma into relative errors (90 ULP at x = 90), so they are carried into
    # it.
    cdef vec[real] g, sum, low, high
    if loss.whole_gamma == 1:
        return q
    if loss.whole_gamma == 0:
        return splat(<real> 1) + (q - q)  # NaN is kept
    g = splat(<real> loss.gamma)
    sum = above + log_term
    low = g * (log_term - (sum - above))
    high = g * sum
    low = low + product_error(g, sum, high)
    low = low + splat(<real> (loss.gamma - <real> loss.gamma)) * sum  # gamma itself may have been rounded
    return exp_less(-high, zero_unless(less(high, splat(<real> 1e4)), low))


cdef inline vec[real] sigmoid_focal(vec[real] z, vec[real] smaller, vec[real] log_term,
                                    const real* power, vec[real] y, vec[real] opposite,
                                    const SigmoidFocal* loss, vec[real] alpha, vec[real] one_less_alpha,
                                    vec[real] sum, vec[real]* grad,
                                    vec[real]* hess, options kind) noexcept nogil:
    # With x = -z for y = 1 and z for y = 0: r = sigma(x) is 1 - p_t, p = sigma(-x) is p_t,
    # b = softplus(x) is -log p_t. With derivatives with respect to x,
    #     f   = a r^gamma b
    #     f'  = a r^gamma (r + gamma p b)
    #     f'' = a p r^gamma ((1 + 2 gamma) r + gamma b (gamma p - r))
    # where a = alpha_t. Lanes with targets between 0 and 1 are replaced at the end. The arguments are smaller =
    # sigma(-|z|) and log_term = log1p(e). Returns the loss, or `sum` plus the loss, as above.
    cdef vec[real] zero = splat(<real> 0), one = splat(<real> 1), g = splat(<real> loss.gamma)
    cdef vec[real] larger = one - smaller
    cdef vec[real] sign = splat(<real> 0.5) - y  # negative if y = 1
    cdef vec[real] x, r, p, b, p_b, weight, soft_grad, soft_hess
    cdef vec[real] value = zero if options is General else sum
    cdef mask[real] soft
    grad[0] = hess[0] = zero
    if options is Ordinary or any(at_most(y, zero) | at_most(opposite, zero)):
        x = flip_sign(z, sign)
        r = select_negative(x, smaller, larger)
        p = select_negative(x, larger, smaller)
        b = max(x, zero) + log_term
        weight = select_negative(sign, alpha, one_less_alpha)
        weight = weight * (r * r if loss.whole_gamma == 2 else load(power))
        p_b = p * b
        if options is not Ordinary:  # avoids 0 * inf
            p_b = select(equal(p, zero), p, p_b)
            b = zero_where(equal(weight, zero), b)
        grad[0] = flip_sign(weight * fma(g, p_b, r), sign)
        hess[0] = weight * fma(one + g + g, r * p, g * subtract_product(g * p * p_b, r, p_b))
        value = weight * b if options is General else fma(weight, b, sum)
        if options is Ordinary:
            return value
    soft = less(zero, y) & less(zero, opposite)
    if any(soft):
        b = soft_focal(z, y, opposite, larger, smaller, log_term, loss, alpha, one_less_alpha, &soft_grad,
                       &soft_hess)
        value = select(soft, b if options is General else sum + b, value)
        grad[0] = select(soft, soft_grad, grad[0])
        hess[0] = select(soft, soft_hess, hess[0])
    return value


cdef inline vec[real] power_of_mixture(vec[real] r, double gamma) noexcept nogil:
    # r^gamma, to the working precision. The exponential would turn the rounding errors of gamma log r into relative
    # ones.
    cdef wide_vec[real] wide = widen_lanes(r)
    cdef int k
    for k in range(wide.parts):
        wide.part[k] = (power_of_fraction(wide.part[k], gamma) if real is double
                        else exp(splat(gamma) * log(wide.part[k])))
    return narrow_lanes(wide)


cdef inline vec[real] soft_focal(vec[real] z, vec[real] y, vec[real] opposite, vec[real] larger,
                                 vec[real] smaller, vec[real] log_term, const SigmoidFocal* loss,
                                 vec[real] alpha, vec[real] one_less_alpha, vec[real]* grad,
                                 vec[real]* hess) noexcept nogil:
    # f = a r^gamma b with r = 1 - p_t = p (1 - y) + q y for p = sigma(z), q = sigma(-z), b = BCE of y:
    #     f'  = a r^gamma (gamma rho b + b'),         rho = r' / r,  r' = p q (1 - 2 y)
    #     f'' = a r^gamma (gamma rho b ((gamma - 1) rho + q - p) + 2 gamma rho b' + p q)
    cdef vec[real] zero = splat(<real> 0), one = splat(<real> 1), g = splat(<real> loss.gamma)
    cdef vec[real] p = select_negative(z, smaller, larger)
    cdef vec[real] q = select_negative(z, larger, smaller)
    cdef vec[real] r = fma(p, opposite, q * y)
    cdef vec[real] rho = p * q * (one - (y + y)) / r  # opposite is rounded, so opposite - y is inexact near 1/2
    cdef vec[real] b = y * (max(-z, zero) + log_term) + opposite * (max(z, zero) + log_term)
    cdef vec[real] slope = subtract_product(opposite * p, y, q)
    cdef vec[real] weight = fma(y, alpha, opposite * one_less_alpha)
    if loss.whole_gamma > 0:
        weight = weight * (r * r if loss.whole_gamma == 2 else r)
    elif loss.whole_gamma < 0:
        weight = weight * power_of_mixture(r, loss.gamma)
    cdef vec[real] g_rho_b = g * select(equal(rho, zero), zero, rho * b)
    grad[0] = weight * (g_rho_b + slope)
    hess[0] = weight * (g_rho_b * ((g - one) * rho + (q - p)) + (g + g) * rho * slope + p * q)
    return select(equal(weight, zero), weight, weight * b)
