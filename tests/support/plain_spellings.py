r"""Spellings of one answer, a line each: every two of a line are equal in both modes, no two of different lines are."""

_SPELLINGS = r"""
pi/2 ## \pi/2 ## \frac{\pi}{2} ## π/2 ## (1/2)pi ## 0.5*pi ## 0.5\pi ## pi / 2 ## 1/2*pi ## (pi)/2 ## (pi)/(2) ## Pi/2 ## ½π ## \frac{1}{2}\pi ## \dfrac{\pi}{2} ## 1/2 pi ## pi*0.5 ## π÷2
2*pi ## 2pi ## 2 pi ## 2π ## 2\pi ## 2 * π ## 2·π ## 2\cdot\pi ## pi*2 ## 2×pi ## 2\pi{} ## 2*Pi ## 2 \times \pi
16pi ## 16*pi ## 16 pi ## 16π ## 16\pi ## 16 \pi ## (16)(pi) ## (4^2)pi ## 16*π ## 4**2*pi
-pi ## -\pi ## −π ## - pi ## -π ## (-1)*pi ## -1*pi ## -1\pi
pi^2 ## pi**2 ## π² ## \pi^2 ## pi² ## π^2 ## \pi^{2} ## pi*pi
pi^2/6 ## pi**2/6 ## \frac{\pi^2}{6} ## π²/6 ## (pi^2)/6
pi*r^2 ## pi r^2 ## pi*r**2 ## πr² ## \pi r^2 ## \pi r^{2} ## πr^2 ## r^2*pi ## pi * r^2
4/3*pi*r^3 ## (4/3)pi r^3 ## (4/3)*pi*r**3 ## \frac{4}{3}\pi r^3 ## \frac43 \pi r^3 ## 4/3 π r³ ## 4pi r^3/3 ## \frac{4\pi r^3}{3}
sqrt(2)/2 ## \frac{\sqrt{2}}{2} ## √2/2 ## sqrt2/2 ## sqrt{2}/2 ## \sqrt{2}/2 ## 2^(1/2)/2 ## 2**0.5/2 ## 2^{-1/2} ## 1/sqrt(2) ## 1/√2 ## sqrt(1/2) ## sqrt(0.5) ## (√2)/2 ## √(2)/2 ## ½√2 ## sqrt 2 / 2 ## \frac{1}{\sqrt 2} ## 2^(-1/2) ## 2**(-1/2) ## 2**-0.5 ## (1/2)sqrt(2) ## 0.5*sqrt(2) ## \sqrt2/2 ## sqrt(2) / 2
2sqrt(3) ## 2*sqrt(3) ## 2√3 ## 2\sqrt3 ## 2 sqrt 3 ## 2 * sqrt(3) ## sqrt(12) ## sqrt12 ## √12 ## 2·√3 ## 2*3^(1/2) ## 2*3**(1/2) ## 2\sqrt{3} ## 2sqrt3 ## \sqrt{12} ## 12^(1/2) ## 12^0.5 ## 2 √3 ## sqrt(3)*2 ## 2*sqrt3 ## 2√(3) ## 2√{3} ## 2(3)^{1/2}
cbrt(2) ## 2^(1/3) ## 2**(1/3) ## ∛2 ## \sqrt[3]{2} ## 2^{1/3} ## 2^{\frac{1}{3}} ## cuberoot(2) ## root(3)(2) ## 2^{\frac13} ## ∛(2)
5^(1/4) ## ∜5 ## \sqrt[4]{5} ## 5**(1/4) ## 5^0.25 ## root(4)(5) ## sqrt[4]{5} ## sqrt(sqrt(5))
x**2+1 ## x^2+1 ## x^2 + 1 ## x²+1 ## x*x+1 ## x^{2}+1 ## 1+x^2 ## x ** 2 + 1 ## 1 + x**2 ## x^(2)+1
3*x ## 3x ## 3·x ## 3 \cdot x ## x*3 ## 3 x ## 3\times x ## (3)(x)
x**2 - 5*x + 6 ## x^2-5x+6 ## (x-2)(x-3) ## (x-2)*(x-3) ## (x - 3)(x - 2) ## x²-5x+6 ## 6 - 5*x + x**2
(x+1)/(x-1) ## \frac{x+1}{x-1} ## (x + 1) / (x - 1) ## (1+x)/(x-1) ## (x+1)*(x-1)^(-1) ## (x+1)(x-1)^{-1} ## (x+1)/(x-1)
x^(2/3) ## x^{2/3} ## x**(2/3) ## x^{\frac{2}{3}} ## \sqrt[3]{x^2} ## cbrt(x^2) ## (x^2)^(1/3) ## ∛(x²)
1/x ## x^-1 ## x^(-1) ## x**-1 ## x^{-1} ## \frac{1}{x} ## 1/(x) ## x**(-1) ## x⁻¹
sqrt(x^2+1) ## \sqrt{x^2+1} ## (x^2+1)^(1/2) ## √(x²+1) ## sqrt(x**2+1) ## (x**2 + 1)**0.5 ## sqrt{x^2+1} ## (1+x^2)^{1/2}
sqrt(2+sqrt(3)) ## \sqrt{2+\sqrt{3}} ## √(2+√3) ## (2+3^(1/2))^(1/2) ## sqrt(2 + sqrt 3) ## \sqrt{2+\sqrt3}
2+sqrt(3) ## 2+√3 ## 2 + \sqrt{3} ## \sqrt3+2 ## 2 + 3^(1/2) ## sqrt(3) + 2 ## 2+sqrt3
(1+sqrt(5))/2 ## \frac{1+\sqrt{5}}{2} ## (1+√5)/2 ## 1/2 + sqrt(5)/2 ## (sqrt(5)+1)/2 ## 0.5*(1+sqrt(5)) ## (1 + 5^(1/2))/2 ## (1+sqrt5)/2 ## \frac{1 + \sqrt 5}{2}
e^2 ## exp(2) ## e**2 ## \exp(2) ## e^{2} ## e² ## exp 2 ## \mathrm{e}^2 ## e^(2) ## e*e
e ## exp(1) ## e^1 ## \mathrm{e} ## e**1 ## \exp(1)
e^(2x) ## exp(2x) ## exp(2*x) ## e**(2*x) ## \exp(2x) ## e^{2x} ## e^(2*x) ## (e^x)^2 ## exp(x)^2
e^-x ## exp(-x) ## e^(-x) ## e^{-x} ## e**(-x) ## 1/e^x ## 1/exp(x) ## e**-x ## \exp(-x)
ln(2) ## ln 2 ## \ln 2 ## \ln(2) ## log(2) ## \ln{2} ## ln2 ## \log 2 ## -ln(1/2)
ln(x+1) ## \ln(x+1) ## log(x+1) ## ln(1+x) ## \ln (1 + x) ## ln (x+1)
log_2(3) ## log2(3) ## log_{2} 3 ## \log_2 3 ## log(3, 2) ## log(3)/log(2) ## ln(3)/ln(2) ## log_2 3 ## \log_{2}(3) ## ln 3/ln 2 ## \frac{\ln 3}{\ln 2} ## log₂(3) ## log₂ 3 ## log_2{3} ## log base 2 of 3
log10(5) ## log_10(5) ## \log_{10} 5 ## lg 5 ## \lg 5 ## log_{10}(5) ## log(5,10) ## ln(5)/ln(10) ## log₁₀5
sin(x) ## sin x ## \sin x ## \sin(x) ## \sin{x} ## sin (x) ## \sin\left(x\right)
sin^2(x) ## sin(x)^2 ## sin(x)**2 ## \sin^2 x ## sin²(x) ## sin^2 x ## \sin^{2}(x) ## (sin x)^2 ## (\sin x)^2 ## sin² x ## 1-cos^2(x) ## 1 - cos(x)**2
arctan(x) ## atan(x) ## tan^-1(x) ## tan^(-1)(x) ## \tan^{-1}(x) ## \arctan x ## tan^{-1} x ## arctan x ## tan⁻¹(x)
2sin(x)cos(x) ## 2*sin(x)*cos(x) ## 2\sin x\cos x ## sin(2x) ## sin(2*x) ## \sin 2x ## sin 2x
cos(pi/8) ## \cos\frac{\pi}{8} ## cos(π/8) ## \cos(\pi/8) ## cos (pi/8) ## cos(22.5°) ## cos(22.5^\circ)
cosh(x) ## \cosh x ## (e^x+e^(-x))/2 ## (exp(x)+exp(-x))/2 ## \frac{e^x+e^{-x}}{2}
2 ## 5 + -3 ## 5+-3 ## 5 + (-3) ## 5-3 ## 4/2 ## 2.0 ## 2.00 ## +2 ## (2) ## 8^(1/3) ## sqrt(4) ## √4 ## log_2(4) ## log2(4) ## log10(100) ## abs(-2) ## |-2| ## floor(2.5) ## 2! ## 6/3 ## 2e0 ## --2 ## cbrt(8) ## max(1,2) ## ln(e^2) ## gcd(4,6)
5 ## 3 - -2 ## 3--2 ## 3 - (-2) ## 3+2 ## sqrt(25) ## 5/1 ## 05 ## |−5| ## 2**2+1 ## |3+4i| ## abs(3+4i)
-6 ## 2*-3 ## 2 * -3 ## 2*(-3) ## -2*3 ## 2 \cdot (-3) ## (-2)(3) ## −6 ## – 6 ## - 6 ## -6.0 ## 2·(−3) ## -(6) ## -|6|
14-i ## 14.0 + -1.0i ## 14 + -1i ## 14-1.0i ## 14 - 1i ## 14 - 1.0*i ## 14+(-1)i ## 14 + (-i) ## 14-1j ## 14.0-1.0j ## (14-1j) ## -i+14 ## 14 - I ## 14 - 1*I
3+4i ## 3 + 4i ## 3+4j ## 3 + 4*i ## 3+4*I ## 4i+3 ## 3 + 4 i ## (3+4j) ## 3.0+4.0j ## 3 + 4\,i ## 3+4\mathrm{i} ## 3+4\mathit{i} ## 4*I + 3
2i ## 2*i ## sqrt(-4) ## √(-4) ## 2\mathrm{i} ## 0+2i ## 2*I ## 0+2j ## i*2 ## (1+i)^2 ## (1+i)**2
-1/2+sqrt(3)/2*i ## -1/2 + (sqrt(3)/2)i ## -\frac12+\frac{\sqrt3}{2}i ## (-1+sqrt(3)i)/2 ## (-1 + i*sqrt(3))/2 ## -1/2 + i√3/2 ## e^(2*pi*i/3) ## exp(2*pi*i/3) ## e^{2\pi i/3} ## -1/2 + sqrt(3)*I/2
3e8 ## 3E8 ## 3 x 10^8 ## 3x10^8 ## 3×10^8 ## 3 × 10⁸ ## 3*10^8 ## 3*10**8 ## 3 \times 10^8 ## 3\cdot10^{8} ## 300000000 ## 300,000,000 ## 3.0e8 ## 3e+8 ## 3 * 10^8 ## 3·10^8 ## 3.00 x 10^8 ## 3e08 ## 3 X 10^8 ## 3.0E+8 ## 300 million ## 3 x 10^{8} ## 3 x 10^(8)
1.5e-3 ## 0.0015 ## 1.5E-3 ## 1.5 x 10^-3 ## 1.5 x 10^(-3) ## 1.5 × 10⁻³ ## 1.5*10^-3 ## 1.5×10^{-3} ## 15e-4 ## 1.5*10**-3 ## 1.5 \times 10^{-3} ## 3/2000 ## 1.5*10**(-3) ## 1.5e-03 ## .0015 ## 1.5 \cdot 10^{-3}
6.02e23 ## 6.02 x 10^23 ## 6.02 \times 10^{23} ## 6.02×10²³ ## 6.02*10^23 ## 6.02E23 ## 6.02*10**23
infinity ## oo ## inf ## ∞ ## \infty ## +oo ## +infinity ## Infinity ## +∞ ## +\infty ## +inf ## infty ## positive infinity ## Inf ## INF
-inf ## -oo ## -infinity ## -∞ ## -\infty ## negative infinity ## minus infinity ## −∞ ## - infinity ## -Infinity
[0, oo) ## [0, inf) ## [0, infinity) ## [0,\infty) ## [0, ∞) ## [0,+∞) ## [0, +oo) ## x >= 0 ## x≥0 ## x \ge 0 ## 0 <= x ## 0 ≤ x < ∞ ## x in [0, oo) ## x ∈ [0, ∞) ## {x | x >= 0} ## {x : x >= 0} ## \left[0,\infty\right) ## [0,\infty[ ## x \geqslant 0 ## 0 <= x < oo ## x => 0 ## 0<=x<infinity ## \{x \mid x \ge 0\} ## [0, +infinity) ## x ≧ 0 ## x ⩾ 0 ## {x∈R | x≥0} ## {x in R : x >= 0} ## x ∈ [0,+∞)
(-inf, 3] U [5, inf) ## (-∞,3]∪[5,∞) ## (-oo, 3] U [5, oo) ## (-oo,3]U[5,oo) ## (-infinity, 3] union [5, infinity) ## x <= 3 or x >= 5 ## x ≤ 3 or x ≥ 5 ## (-\infty, 3]\cup[5,\infty) ## (-inf,3] u [5,inf) ## x>=5 or x<=3 ## (-∞, 3] U [5, +∞) ## (-\infty,3] \cup [5,+\infty) ## (-oo, 3] ∪ [5, oo) ## x \le 3 \text{ or } x \ge 5 ## x ≤ 3 ∨ x ≥ 5 ## x <= 3, x >= 5 ## x <= 3 || x >= 5 ## (-infinity,3] cup [5,infinity) ## (-∞,3] or [5,∞)
(-1, 3) ## (-1,3) ## \left(-1, 3\right) ## -1 < x < 3 ## x > -1 and x < 3 ## ]-1,3[ ## -1<x<3 ## x ∈ (-1,3) ## 3 > x > -1 ## {x | -1 < x < 3} ## -1 < x and x < 3 ## x in (-1, 3) ## -1 \lt x \lt 3 ## -1 &lt; x &lt; 3 ## x > -1 ∧ x < 3 ## x > -1 && x < 3
R \ {0} ## R - {0} ## \mathbb{R} \setminus \{0\} ## (-oo,0) U (0,oo) ## x != 0 ## x ≠ 0 ## x \neq 0 ## ℝ \ {0} ## (-∞,0)∪(0,∞) ## x \ne 0 ## \mathbb{R}\backslash\{0\} ## x < 0 or x > 0 ## (-\infty,0)\cup(0,\infty) ## x =/= 0 ## x in R, x != 0 ## all real numbers except 0 ## {x | x != 0} ## \mathbb R - \{0\}
R ## ℝ ## \mathbb{R} ## (-oo, oo) ## (-∞, ∞) ## (-inf, inf) ## all real numbers ## (-\infty,\infty) ## (-∞,+∞) ## All real numbers ## \mathbf{R} ## all reals ## x in R ## x ∈ ℝ
{1,2} ## \{1,2\} ## {2,1} ## { 1 , 2 } ## 1, 2 ## 1 and 2 ## \{2, 1\} ## 1,2 ## 2, 1 ## 1; 2 ## x=1 or x=2 ## x = 1, 2 ## \left\{1,2\right\} ## x ∈ {1,2} ## x in {1, 2} ## {1;2} ## x = 1 or 2 ## x_1 = 1, x_2 = 2 ## x1 = 1, x2 = 2 ## x₁ = 1, x₂ = 2 ## 1 or 2 ## 1 & 2 ## x = 1 and x = 2
x=3 or x=-3 ## x=±3 ## ±3 ## \pm 3 ## x = \pm 3 ## 3, -3 ## -3, 3 ## {-3, 3} ## x = 3, x = -3 ## x = -3 or x = 3 ## +-3 ## +/-3 ## x = +/- 3 ## x=+-3 ## x = 3; x = -3 ## 3 or -3 ## -3 and 3 ## x = -3 or 3 ## x ∈ {-3,3} ## \{-3,3\} ## +/- 3 ## plus or minus 3 ## x=3 ∨ x=-3 ## x = 3 || x = -3 ## x1=3, x2=-3
1±sqrt(2) ## 1 ± √2 ## 1 +- sqrt(2) ## 1 +/- sqrt(2) ## 1 \pm \sqrt{2} ## 1+sqrt(2), 1-sqrt(2) ## 1-√2 and 1+√2 ## x = 1 ± sqrt(2) ## {1-sqrt(2), 1+sqrt(2)} ## x=1+sqrt(2) or x=1-sqrt(2)
∅ ## \emptyset ## {} ## \{\} ## \varnothing ## no solution ## empty set ## the empty set ## No solution ## no solutions ## {\O} ## Ø ## emptyset
|x| ## abs(x) ## \left|x\right| ## Abs(x) ## \lvert x \rvert ## sqrt(x^2) ## \sqrt{x^2} ## |−x| ## abs(-x) ## \vert x\vert
floor(x) ## \lfloor x \rfloor ## ⌊x⌋ ## \left\lfloor x\right\rfloor
ceil(x) ## ceiling(x) ## \lceil x \rceil ## ⌈x⌉
n! ## factorial(n) ## n*(n-1)! ## n(n-1)! ## n \cdot (n-1)!
120 ## 5! ## factorial(5) ## 5*4*3*2*1 ## 120.0 ## 5×4×3×2×1 ## 5 · 4 · 3 · 2 ## 120/1
10 ## C(5,2) ## binom(5,2) ## 5 choose 2 ## {5 \choose 2} ## \binom{5}{2} ## 5C2 ## _5C_2 ## ^5C_2 ## {}^5C_2 ## {}_5C_2 ## ^{5}C_{2} ## nCr(5,2) ## C(5, 2) ## binomial(5,2) ## comb(5,2) ## C_5^2 ## \dbinom{5}{2} ## C^2_5 ## {}_{5}C_{2} ## 10^1 ## 5!/(2!3!) ## 5!/(2!*3!) ## (5 choose 2)
C(n,k) ## binom(n,k) ## n choose k ## \binom{n}{k} ## {n \choose k} ## C(n, k) ## binomial(n, k) ## (n choose k) ## nCk ## n!/(k!(n-k)!) ## \frac{n!}{k!(n-k)!}
a_1 ## a_{1} ## a₁ ## a1
x_n ## x_{n} ## xₙ
theta ## \theta ## θ
alpha + beta ## \alpha+\beta ## α+β ## beta + alpha ## α + β
lambda/2 ## \frac{\lambda}{2} ## λ/2 ## \lambda/2 ## 0.5*lambda
Omega ## \Omega ## Ω
omega_0 ## \omega_0 ## ω_0 ## ω₀ ## omega0 ## \omega_{0}
2*theta ## 2theta ## 2θ ## 2\theta ## 2 theta
sin(theta) ## \sin\theta ## sin θ ## sin(θ) ## \sin(\theta) ## sin theta
theta = pi/4 ## \theta = \frac{\pi}{4} ## θ = π/4 ## pi/4 ## π/4 ## \frac{\pi}{4} ## 45° ## 45 degrees ## 45 deg ## 45^\circ ## arctan(1) ## 45deg
phi ## \phi ## \varphi ## φ ## ϕ
mu + 2sigma ## \mu + 2\sigma ## μ+2σ ## mu + 2*sigma
1/2 ## ½ ## \frac{1}{2} ## \frac12 ## 0.5 ## .5 ## (1)/(2) ## 1 / 2 ## 1÷2 ## frac{1}{2} ## 1⁄2 ## 2^-1 ## 2**-1 ## 2^(-1) ## 50% ## 50 % ## sin(pi/6) ## cos(60°) ## 1/(2) ## 2/4 ## \frac{1}{2}{} ## 5e-1 ## 0.50 ## 50 percent
-1/2 ## -(1/2) ## (-1)/2 ## 1/(-2) ## 1/-2 ## \frac{-1}{2} ## -½ ## \frac{1}{-2} ## −1/2 ## -0.5 ## -.5 ## - 1/2 ## -\frac{1}{2} ## −½ ## cos(120°)
7/2 ## 3 1/2 ## 3½ ## 3 ½ ## 3.5 ## 3\frac{1}{2} ## 3\frac12 ## 3 + 1/2 ## \frac72 ## 3 \frac{1}{2} ## (7)/(2) ## 3+1/2 ## 350%
(1/2, 3) ## (0.5, 3) ## \left(\frac12, 3\right) ## (1/2,3) ## ( 1/2 , 3 ) ## x=1/2, y=3 ## (½, 3) ## <1/2, 3> ## ⟨1/2, 3⟩ ## \langle \frac{1}{2}, 3 \rangle ## (x, y) = (1/2, 3) ## x = 0.5 and y = 3 ## (1/2; 3) ## (.5,3.0) ## \begin{pmatrix}1/2\\3\end{pmatrix}
(1, -2, sqrt(3)) ## (1,-2,√3) ## \left(1,-2,\sqrt{3}\right) ## <1, -2, sqrt(3)> ## (1, −2, 3^(1/2)) ## \langle1,-2,\sqrt3\rangle
[[1,2],[3,4]] ## \begin{pmatrix}1&2\\3&4\end{pmatrix} ## [[1, 2], [3, 4]] ## \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix} ## Matrix([[1, 2], [3, 4]]) ## [1, 2; 3, 4] ## ((1,2),(3,4)) ## \left[\begin{array}{cc}1&2\\3&4\end{array}\right] ## \left(\begin{array}{rr}1 & 2\\ 3 & 4\end{array}\right)
y = 2x+1 ## y=2*x+1 ## f(x)=2x+1 ## y = 1 + 2*x ## f(x) = 2*x + 1 ## y=2x+1 ## 2x+1 ## 2*x+1 ## g(x) = 2x + 1
x^2+y^2=4 ## x**2 + y**2 = 4 ## x²+y²=4 ## y^2 = 4 - x^2 ## x^2 + y^2 - 4 = 0 ## x^{2}+y^{2}=4
n(n+1)/2 ## n*(n+1)/2 ## \frac{n(n+1)}{2} ## (n^2+n)/2 ## (n**2 + n)/2 ## n(n + 1) / 2 ## 0.5n(n+1) ## (1/2)*n*(n+1) ## \frac{1}{2}n(n+1) ## sum_{k=1}^{n} k ## \sum_{k=1}^n k ## binom(n+1,2) ## C(n+1,2) ## ½n(n+1) ## sum_(k=1)^n k ## ∑_{k=1}^n k
2^n - 1 ## 2**n - 1 ## 2^{n}-1 ## 2^n-1 ## -1+2^n ## 2ⁿ-1 ## 2^(n) - 1
2^(n+1) ## 2**(n+1) ## 2^{n+1} ## 2*2^n ## 2·2^n ## 2 \cdot 2^n
a*b/c ## (a*b)/c ## \frac{ab}{c} ## ab/c ## a b / c ## a*(b/c) ## \frac{a \cdot b}{c}
a/(b*c) ## \frac{a}{bc} ## a/(bc) ## a/b/c ## (a/b)/c ## \frac{a}{b c}
-x^2 ## -(x^2) ## -x**2 ## −x² ## -x^{2} ## -1*x^2
(x+y)^3 ## (x+y)**3 ## (x + y)³ ## (y+x)^{3} ## (x+y)^(3)
1234 ## 1,234 ## 1 234 ## 1{,}234 ## 1234.0 ## 1\,234 ## $1,234$ ## \$1234 ## 1.234e3 ## 1.234 x 10^3
32, 349 ## 32 and 349 ## {32, 349} ## 349, 32 ## x=32 or x=349
32349 ## 32 349 ## 32{,}349 ## 32,\!349 ## 32349.0 ## 32\,349 ## 32349/1
3:4 ## 3 : 4 ## 6:8 ## 3/4 ## 0.75 ## \frac{3}{4} ## ¾ ## 75% ## 3∶4
x != 2 ## x ≠ 2 ## x \neq 2 ## x \ne 2 ## x =/= 2 ## x <> 2 ## (-oo,2) U (2,oo) ## R \ {2}
x <= 5 ## x ≤ 5 ## x =< 5 ## x \le 5 ## 5 >= x ## (-oo, 5] ## (-∞,5] ## x \leqslant 5 ## (-inf,5] ## x&lt;=5 ## x&le;5 ## (-\infty,5] ## x<=5
x = 1, y = 2, z = 3 ## (x,y,z)=(1,2,3) ## x=1; y=2; z=3 ## x = 1 and y = 2 and z = 3 ## (1,2,3) ## x=1,\ y=2,\ z=3 ## \begin{cases}x=1\\y=2\\z=3\end{cases} ## \begin{aligned}x&=1\\y&=2\\z&=3\end{aligned} ## \left\{\begin{array}{l}x=1\\y=2\\z=3\end{array}\right. ## \begin{array}{l}x=1\\y=2\\z=3\end{array} ## \left\{\begin{aligned}x&=1,\\y&=2,\\z&=3.\end{aligned}\right. ## \begin{align*}x&=1\\y&=2\\z&=3\end{align*} ## \begin{gathered}x=1\\y=2\\z=3\end{gathered} ## \begin{cases}x=1,\\y=2,\\z=3.\end{cases} ## \left\{\begin{array}{r@{\;}l}x&=1\\y&=2\\z&=3\end{array}\right. ## \left\{\begin{matrix}x=1\\y=2\\z=3\end{matrix}\right. ## x=1 \\ y=2 \\ z=3 ## \begin{split}x&=1\\y&=2\\z&=3\end{split} ## \left\{\begin{array}{rcl}x&=&1\\y&=&2\\z&=&3\end{array}\right. ## \begin{eqnarray}x&=&1\\y&=&2\\z&=&3\end{eqnarray} ## \begin{cases}x=1\\[4pt]y=2\\[4pt]z=3\end{cases} ## x=1, y=2 and z=3
\begin{cases}x^2 & x>0\\ -x & x\le 0\end{cases} ## \left\{\begin{array}{ll}x^2 & x>0\\ -x & x\le 0\end{array}\right. ## \begin{cases}x^2, & x>0\\ -x, & x\le 0\end{cases} ## \left\{\begin{array}{ll}x^2, & \text{if } x>0\\ -x, & \text{if } x\le 0\end{array}\right. ## \begin{cases}x^2 & \text{if } x>0\\ -x & \text{if } x\le 0\end{cases} ## \left\{\begin{aligned}&x^2, &&x>0\\ &-x, &&x\le 0\end{aligned}\right. ## \begin{dcases}-x & x\le 0\\x^2 & x>0\end{dcases} ## x^2 if x > 0, -x if x <= 0
BD ## B, D ## B and D ## D, B ## (B), (D) ## \text{B and D} ## B,D ## \text{BD} ## \mathrm{BD} ## B;D ## (B)(D) ## B & D ## {B, D} ## D and B ## (B) and (D) ## \textbf{(B)} and \textbf{(D)} ## B D ## Options B and D ## \text{B, D} ## \text{(B), (D)} ## [B, D] ## B/D ## B \text{ and } D ## \text{B} \text{ and } \text{D} ## \mathrm{B}, \mathrm{D} ## B, and D ## B. D. ## B、D
ACD ## A, C, D ## A,C,D ## A, C and D ## A, C, and D ## D, C, A ## (A), (C), (D) ## (A)(C)(D) ## \text{A, C, D} ## \text{ACD} ## \mathrm{ACD} ## A C D ## (A), (C), and (D) ## {A, C, D} ## A、C、D
BDE ## B, D, E ## B, D and E
B ## (B) ## \text{B} ## B. ## \textbf{(B)} ## \mathrm{B} ## [B] ## B)
D ## (D) ## \text{(D)}
\frac{3\pi}{4} ## 3pi/4 ## 3*pi/4 ## (3pi)/4 ## 0.75pi ## 3/4 pi ## 3π/4 ## (3/4)*pi ## 135 degrees
\frac{\sqrt{3}}{3} ## sqrt(3)/3 ## 1/sqrt(3) ## 3^(-1/2) ## √3/3 ## sqrt3/3 ## 3**(-0.5)
\frac{a+b}{2} ## (a+b)/2 ## (a + b)/2 ## 0.5*(a+b) ## a/2 + b/2
\frac{x^2-1}{x+2} ## (x^2-1)/(x+2) ## (x**2 - 1)/(x + 2) ## (x²−1)/(x+2)
5\sqrt{2}+3 ## 5*sqrt(2)+3 ## 5√2 + 3 ## 3 + 5sqrt(2) ## 3+5*2**0.5
\log_3 5 ## log_3(5) ## log(5)/log(3) ## ln(5)/ln(3) ## log_{3}{5} ## log(5, 3) ## log base 3 of 5 ## log₃ 5 ## log_3 5
e^{-2x} ## exp(-2x) ## e^(-2x) ## e**(-2*x) ## 1/e^(2x) ## exp(-2*x)
-\frac{5}{3} ## -5/3 ## −5/3 ## -(5/3) ## (-5)/3 ## -1 2/3 ## - 5/3
x^3 - 3x + 2 ## x**3 - 3*x + 2 ## x³-3x+2 ## x^3-3*x+2 ## (x-1)^2(x+2) ## (x-1)**2*(x+2)
2^{10} ## 2**10 ## 1024 ## 2^10 ## 2¹⁰ ## 1,024 ## 2^(10)
\sin^2\theta ## sin^2(theta) ## sin(theta)^2 ## sin²θ ## (sin θ)^2 ## sin^2 theta ## sin(theta)**2
\tan^{-1}(2) ## arctan(2) ## atan(2) ## tan^(-1)(2) ## tan^-1(2) ## arctan 2 ## tan⁻¹(2)
\cos^{-1}\frac{1}{3} ## arccos(1/3) ## acos(1/3) ## cos^-1(1/3) ## cos⁻¹(1/3)
2\sqrt[3]{5} ## 2*cbrt(5) ## 2*5^(1/3) ## 2∛5 ## 2*5**(1/3) ## 2cbrt(5)
(-\infty, -2)\cup(2,\infty) ## (-inf,-2) U (2,inf) ## (-oo, -2) ∪ (2, oo) ## x < -2 or x > 2 ## |x| > 2 ## (-∞,-2)U(2,∞) ## x<-2 or x>2 ## abs(x) > 2 ## (-infinity, -2) union (2, infinity)
[-1, 1) ## -1 <= x < 1 ## -1≤x<1 ## x >= -1 and x < 1 ## {x | -1 <= x < 1} ## x in [-1, 1) ## {x: -1 ≤ x < 1}
\{-1, 0, 1\} ## {-1, 0, 1} ## -1, 0, 1 ## {-1,0,1} ## x = -1, 0, 1 ## -1, 0 and 1 ## x=-1 or x=0 or x=1 ## {0, ±1} ## 0, ±1
2 \pm \sqrt{3} ## 2 ± sqrt(3) ## 2 +/- sqrt(3) ## 2 ± √3 ## x = 2 ± √3 ## 2+sqrt(3), 2-sqrt(3) ## 2 +- sqrt(3)
(2, -3) ## x=2, y=-3 ## (2,-3) ## (x, y) = (2, -3) ## x = 2 and y = -3 ## <2, -3> ## (2, −3)
1 + 2i ## 1+2i ## 1 + 2*i ## 1+2j ## 2i + 1 ## 1 + 2I ## 1.0+2.0i ## 1 + 2 i ## (1+2j)
-1 - i ## -1-i ## -1 - 1i ## -1 + -1i ## -1-1j ## (-1-1j) ## -(1+i) ## -1.0 - 1.0i ## -1 - I
\frac{n!}{2} ## n!/2 ## factorial(n)/2 ## 0.5 n! ## (n!)/2
\binom{2n}{n} ## C(2n,n) ## binom(2n,n) ## (2n choose n) ## binomial(2*n, n) ## (2n)!/(n!)^2 ## (2n)! / (n! n!)
\lfloor \sqrt{n} \rfloor ## floor(sqrt(n)) ## ⌊√n⌋ ## floor(sqrt n)
\alpha\beta ## alpha*beta ## αβ ## alpha beta ## α·β
\frac{\pi}{2} - \theta ## pi/2 - theta ## π/2 − θ ## 90° - theta
\mu\sigma^2 ## mu*sigma^2 ## μσ² ## mu sigma^2
x_1 + x_2 ## x1 + x2 ## x_1+x_2 ## x₁+x₂ ## x2 + x1
a_n = 2n+1 ## a_n = 2*n+1 ## aₙ = 2n+1 ## a_{n}=2n+1 ## 2n+1
6.022 \times 10^{23} ## 6.022e23 ## 6.022*10^23 ## 6.022 x 10^23 ## 6.022E+23 ## 6.022×10²³ ## 6.022 * 10**23
-4.5 \times 10^{-6} ## -4.5e-6 ## -4.5*10^-6 ## -4.5 x 10^-6 ## -4.5E-06 ## −4.5×10⁻⁶ ## -0.0000045
10^{-3} ## 10^-3 ## 1e-3 ## 0.001 ## 10**-3 ## 1/1000 ## 10^(-3)
x \neq \pm 1 ## x != ±1 ## x ≠ ±1 ## x != 1 and x != -1 ## x ≠ -1, x ≠ 1
\mathbb{R}\setminus\{-1,1\} ## R \ {-1, 1} ## x != 1, x != -1 ## (-oo,-1) U (-1,1) U (1,oo) ## ℝ \ {−1, 1} ## all real numbers except -1 and 1 ## all real numbers except 1 and -1
y = \frac{1}{2}x - 3 ## y = x/2 - 3 ## y = 0.5x - 3 ## y = (1/2)x - 3 ## y=1/2x-3 ## y = 1/2 x - 3 ## x - 2y = 6 ## 2y = x - 6
\begin{pmatrix} 1 & 0 \\ 0 & -1 \end{pmatrix} ## [[1,0],[0,-1]] ## [[1, 0], [0, -1]] ## [1, 0; 0, -1] ## \begin{bmatrix}1&0\\0&-1\end{bmatrix}
\begin{pmatrix} 3 \\ -1 \\ 2 \end{pmatrix} ## (3, -1, 2) ## <3, -1, 2> ## [3, -1, 2] ## [[3],[-1],[2]] ## \langle 3,-1,2\rangle
\begin{cases} a = 2 \\ b = -3 \end{cases} ## a = 2, b = -3 ## a=2; b=-3 ## \left\{ \begin{array}{l} a = 2 \\ b = -3 \end{array} \right. ## \begin{aligned} a &= 2 \\ b &= -3 \end{aligned} ## \begin{align} a &= 2, \\ b &= -3. \end{align} ## a = 2 and b = -3 ## b = -3, a = 2 ## \begin{array}{ll} a = 2, & b = -3 \end{array} ## \left\{ \begin{array} { l } { a = 2 } \\ { b = - 3 } \end{array} \right. ## \left\{\begin{array}{c}a=2,\\b=-3.\end{array}\right. ## \begin{gathered} a = 2 \\ b = -3 \end{gathered} ## \begin{cases}a&=2\\b&=-3\end{cases} ## \left\{\begin{aligned} & a=2 \\ & b=-3 \end{aligned}\right. ## \left\{\begin{split}a&=2\\b&=-3\end{split}\right. ## \left\lbrace\begin{array}{l}a=2\\b=-3\end{array}\right. ## \begin{array}{l} a = 2 \\ b = -3 \end{array}
\begin{cases} x + y = 3 \\ x - y = 1 \end{cases} ## x + y = 3, x - y = 1 ## \left\{\begin{array}{l}x+y=3\\x-y=1\end{array}\right. ## \begin{aligned}x+y&=3\\x-y&=1\end{aligned} ## x-y=1 and x+y=3
ABD ## A, B, D ## A, B and D ## A,B,D ## (A), (B), (D) ## A, B, and D ## \text{A, B, D} ## D, B, A ## (A)(B)(D) ## A B D ## A & B & D ## A; B; D ## options A, B and D ## Options: A, B, D ## A. B. D. ## \text{ABD} ## {A,B,D} ## ["A", "B", "D"] ## ['A','B','D'] ## \text{A}, \text{B}, \text{D} ## A\text{, }B\text{ and }D ## \text{(A), (B) and (D)} ## A/B/D ## A,\ B,\ D ## A,~B,~D ## \textbf{A, B, D} ## \mathbf{ABD} ## A, B, D only ## A \& B \& D ## **A, B, D** ## A and B and D
AC ## A, C ## A and C ## (A) and (C) ## C, A ## A & C ## \text{A and C} ## Both A and C ## A,C ## \mathrm{A}\text{ and }\mathrm{C} ## \text{A} and \text{C} ## A \text{ & } C ## (A, C) ## [A, C] ## A \and C
"""
CLASSES = [
    [spelling.strip() for spelling in line.split(" ## ")]
    for line in _SPELLINGS.strip().splitlines()
]
