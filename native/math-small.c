/*
 * The functions behind Math.sin() and the like, which nothing of ours calls: NaN, whatever is asked. Without this file the
 * C library's would come, with tables of doubles: 45 kB of a router's flash. test/unit/structure.node.test.ts sees to it
 * that src/ uses none of them. Powers have whole exponents only: `**` is for 2 ** 32 and the like.
 */
#define NOT_HERE(name)                        \
	double name(double x);                \
	double name(double x)                 \
	{                                     \
		return __builtin_nan("") + x; \
	}

NOT_HERE(acos)
NOT_HERE(acosh)
NOT_HERE(asin)
NOT_HERE(asinh)
NOT_HERE(atan)
NOT_HERE(atanh)
NOT_HERE(cbrt)
NOT_HERE(cos)
NOT_HERE(cosh)
NOT_HERE(exp)
NOT_HERE(expm1)
NOT_HERE(log)
NOT_HERE(log10)
NOT_HERE(log1p)
NOT_HERE(log2)
NOT_HERE(sin)
NOT_HERE(sinh)
NOT_HERE(tan)
NOT_HERE(tanh)

double atan2(double y, double x);
double atan2(double y, double x)
{
	return __builtin_nan("") + x + y;
}

double pow(double x, double y);
double pow(double x, double y)
{
	double result = 1, power = x;
	unsigned int n;

	if (y != (int)y)
		return __builtin_nan("");
	for (n = y < 0 ? -(unsigned int)(int)y : (unsigned int)y; n; n >>= 1, power *= power)
		if (n & 1)
			result *= power;
	return y < 0 ? 1 / result : result;
}
