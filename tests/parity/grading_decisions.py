"""Writes tests/fixtures/grading/decisions.jsonl: pairs of answers, whether they are the same, and why.

    python tests/parity/grading_decisions.py

Every decision is a person's; this script only spares repetition. `same` says that its first form equals each of the
others, `apart` that every two of its forms differ.
"""

import itertools
import json
import pathlib

ROWS = []


def same(why, first, *others):
    ROWS.extend(dict(gold=first, pred=other, expected=True, why=why) for other in others)


def apart(why, *forms):
    ROWS.extend(dict(gold=a, pred=b, expected=False, why=why) for a, b in itertools.combinations(forms, 2))


def others(why, first, *forms):
    for form in forms:
        apart(why, first, form)


def unknown(why, *forms):
    ROWS.extend(dict(gold=form, pred=form, expected=None, why=why) for form in forms)


# Integers, decimals, fractions
same("grouping of digits", "1234567", "1,234,567", "1{,}234{,}567", r"1,\!234,\!567", "1 234 567", r"1\,234\,567")
same("a decimal is its fraction", r"\frac{1}{2}", "0.5", ".5", ".50", "1/2", "2/4", r"\frac12", r"\dfrac{1}{2}", r"\tfrac{3}{6}", "½")
same("one sign or several", "-3", "\u22123", "-3.0", "-6/2", r"\frac{6}{-2}", r"-\frac{6}{2}", "3/-1", "–3")
same("trailing marks", "5", "5.", "5.0", "$5$", r"\(5\)", r"\[5\]", "$$5$$", "**5**", "`5`", "+5", "05", "5,")
same("zero has no sign", "0", "-0", "0.0", r"\frac{0}{5}")
same("scientific notation", "1500", "1.5e3", "1.5E3", r"1.5 \times 10^3", r"1.5\cdot 10^{3}", "1.5*10^3", "1.5 × 10³", "1.5e+3")
same("small scientific notation", "0.00012", "1.2e-4", r"1.2 \times 10^{-4}", r"\frac{12}{100000}")
same("repeating decimals", r"\frac{1}{3}", r"0.\overline{3}", "0.(3)", "0.333...", r"0.333\ldots", r"0.\bar{3}", "0.333…", r"0.\dot{3}")
same("a repeating block", r"\frac{1}{7}", r"0.\overline{142857}", "0.142857142857...")
same("repeating behind other digits", r"\frac{1}{6}", r"0.1\overline{6}", "0.1666...")
same("nines for ever are one", "1", r"0.\overline{9}")
same("mixed numbers", r"\frac{5}{2}", "2 1/2", r"2\frac{1}{2}", r"2 \frac12", "2½", "2.5")
same("a negative mixed number", "-1.5", r"-1\frac{1}{2}", "-1 1/2")
same("full-width digits", "12", "１２", "１２．０")
same("a decimal comma in LaTeX", "1.5", "1{,}5")
same("a decimal comma, where a decimal is what was meant", "1000.99", "1000,99")
same("large numbers are exact", "9007199254740993", "9,007,199,254,740,993")
same("powers and factorials are computed", "120", "5!", "2^3 \\cdot 15", "(2^7)-8", r"\frac{6!}{3!}")
same("binomials", "10", r"\binom{5}{2}", r"\binom{5}{3}")
same("a rounding that shows four digits", r"\frac{1}{3}", "0.3333", "0.333333333")
same("a rounding of a root", r"\sqrt{17}", "4.1231", "4.123105625617661")
apart("near numbers", "9007199254740993", "9007199254740992", "9007199254740993.5")
apart("tiny fractions", "1/2^99", "1/2^98", "0")
apart("different decimals", "0.33", "1/3", "0.3", "0.34", "33/100 + 1/10^9")
apart("a rounding is not its number", "3.14", r"\pi", r"\frac{22}{7}")
apart("a wrong rounding", r"\frac{2}{3}", "0.6666", "0.66")
apart("digits that go on in an unknown way are not cut off", "0.333", r"\frac{1}{3}")
apart("a factorial is not its number", "5!", "5")
apart("not groups of digits", "1234", "1,2,34")
apart("a comma and a space make a list", "32349", "32, 349")
apart("a product is no concatenation", r"2 \cdot 3", "23", "2^3")
apart("quotients in quotients", "(1/2)/3", "1/(2/3)")
apart("towers", "2^{3^2}", "(2^3)^2")
apart("signs", "5", "-5", r"\pm 5")
apart("powers of ten", "1.5e3", "1.5e2", "1.53")
apart("huge integers that differ in the last digit", "123456789012345678901234567890", "123456789012345678901234567891")

# Percent, money, units
same("percent is written in many ways", r"28\%", "28%", "28 percent", "28 pct", r"28\text{ percent}", "$28$%")
same("a hundredth", "50%", "0.5", r"\frac{1}{2}")
same("a percentage without its sign", "20%", "20")
apart("percentages", "20%", "25%", "0.25%")
same("money", r"\$18.90", "18.90", "$18.90", "18.9", "18.90 dollars", r"18.90\text{ dollars}", r"\$18.9")
same("cents are parts of dollars", r"\$0.05", "5 cents", r"5\text{ cents}")
same("euros", "€5", "5 euros", "5", "5€", r"5\text{ euro}")
apart("currencies", "$5", "€5", "£5", "5 yen")
same("degrees", r"90^\circ", "90°", "90 degrees", r"90^{\circ}", r"90\degree", "90", r"90\text{ degrees}")
same("units set in many ways", r"15\text{ cm}^2", "15 cm^2", r"15\mbox{ cm}^2", "15 cm²", "15 square centimeters", r"15\,\text{cm}^2", "15")
same("units are converted", r"5\text{ m}", "500 cm", r"5000\text{ mm}", "0.005 km", "5 meters", "5 metres")
same("time is converted", "2 hours", "120 minutes", "7200 seconds", "120 min")
same("units of no meaning", "10", r"10\text{ units}", "10 units")
same("speed", "60 km/h", r"60\text{ km/h}", "60 kilometers per hour")
same("things that are counted", "3", "3 apples", r"3\text{ apples}")
same("plurals", "1 apple", "1 apples")
same("a unit behind a fraction", r"\frac{1}{3}\text{ meters}", r"\frac13", r"\frac{1}{3} \textbf{meters}")
same("a unit behind a root", r"3\sqrt{2}\text{ cm}", r"\sqrt{18}\text{ cm}", r"3\sqrt2")
apart("units", "5 cm", r"5\text{ m}", "5 km", "5 inches", "5 kg", "5 hours")
apart("powers of units", "5 cm", "5 cm^2", "5 cm^3")
apart("figures with a unit", "5 cm", "6 cm", "50 cm")
apart("things that are counted are not others", "3 apples", "3 pears")
apart("a letter is no unit", "5m", "5")
apart("temperature scales", r"20^\circ\text{C}", r"20^\circ\text{F}")

# Roots, constants, complex numbers
same("roots in normal form", r"3\sqrt{13}", r"\sqrt{117}", "3√13", "3*sqrt(13)", r"\sqrt{9\cdot 13}", r"3 \sqrt {13}", r"\sqrt{13}\cdot 3")
same("a rational denominator", r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", r"\sqrt{\frac13}", r"3^{-1/2}", r"\frac{1}{3}\sqrt3")
same("nested roots", r"1+\sqrt{2}", r"\sqrt{3+2\sqrt{2}}", r"\frac{1}{\sqrt2-1}", r"\sqrt2+1")
same("a cube root that is quadratic", r"\frac{1+\sqrt5}{2}", r"\sqrt[3]{2+\sqrt5}", r"2\cos 36^\circ", r"2\cos\frac{\pi}{5}")
same("sums of roots", r"\sqrt2+\sqrt3", r"\sqrt{5+2\sqrt6}", r"\sqrt3+\sqrt 2", r"\frac{1}{\sqrt3-\sqrt2}")
same("rational powers", r"\sqrt[3]{4}", "4^{1/3}", r"2^{2/3}", r"\sqrt[6]{16}", "cbrt(4)")
same("perfect powers", "2", r"\sqrt{4}", r"\sqrt[3]{8}", r"8^{1/3}", r"16^{1/4}", "sqrt(4)")
same("a real cube root", "-2", r"\sqrt[3]{-8}")
same("an imaginary root", "2i", r"\sqrt{-4}", "sqrt(-4)", r"i\sqrt4")
same("complex numbers", "6-5i", "6 - 5i", "-5i+6", r"(2-3i)(1+\frac{i}{2}) + \frac{5}{2} - 3i", r"6 - 5\mathrm{i}")
same("a complex quotient", r"\frac{1}{2}-\frac{i}{2}", r"\frac{1}{1+i}")
same("squares of i", "-1", "i^2", r"e^{i\pi}")
same("multiples of pi", r"\frac{\pi}{2}", "π/2", r"\frac{1}{2}\pi", r"0.5\pi", "pi/2", r"\pi\cdot\frac12")
same("e", "e^2", r"\exp(2)", r"\mathrm{e}^2", r"e\cdot e")
same("logarithms", r"\log_2 8", "3", r"\log_{2}(8)", r"\frac{\ln 8}{\ln 2}")
same("a change of base", r"\log_2 3", r"\frac{\ln 3}{\ln 2}", r"\frac{\log 3}{\log 2}", r"\log_4 9")
same("logarithms of powers", r"2\ln 3", r"\ln 9", r"\ln 3 + \ln 3", r"-\ln\frac19")
same("trigonometric values", r"\frac{\sqrt3}{2}", r"\sin 60^\circ", r"\sin\frac{\pi}{3}", r"\cos \frac{\pi}{6}")
same("trigonometry that is rational", r"\frac12", r"\sin 30^\circ", r"\cos\frac{\pi}{3}", r"\sin \frac{\pi}{6}", r"\sin^2 45^\circ")
same("inverse functions", r"\frac{\pi}{4}", r"\arctan 1", r"\tan^{-1} 1", r"\arcsin\frac{1}{\sqrt2}")
same("a sum that is rational", "1", r"\sin^2 1 + \cos^2 1", r"\log 2 + \log 5")
same("absolute values", "5", "|-5|", r"|3-8|", r"\left|-5\right|", r"\lvert -5\rvert", r"|3+4i|")
same("floors", "3", r"\lfloor \pi \rfloor", r"\lceil 2.1\rceil", r"\lfloor 3 \rfloor")
apart("roots", r"\sqrt{2}", r"\sqrt{3}", r"2\sqrt{2}", r"\sqrt[3]{2}", "2", "1.414")
apart("signs inside", r"1+\sqrt2", r"1-\sqrt2", r"\sqrt2-1")
apart("near coincidences", r"e^{\pi\sqrt{163}}", "262537412640768744")
apart("a small term is not lost", r"\sqrt2", r"\sqrt2+10^{-30}")
apart("complex numbers", "6-5i", "6+5i", "-6-5i", "6-5")
apart("constants", r"\pi", "3", "e", r"\frac{355}{113}")
apart("logarithms", r"\log_2 3", r"\log_3 2", r"\ln 3", r"\log 3")
apart("what a root reaches", r"\sqrt{2}+1", r"\sqrt{2+1}")
apart("angles in degrees and radians", r"\sin 30^\circ", r"\sin 30")

# Polynomials and functions
same("order of terms", "p-q", "-q+p", "-(q-p)", "(p - q)", r"p+(-1)q")
same("products are expanded", "(a+5)(b+2)", "ab+2a+5b+10", "(b+2)(a+5)", r"\left(a+5\right)\left(b+2\right)", r"(a+5)\cdot(b+2)")
same("powers are expanded", "x^2+2x+1", "(x+1)^2", "(1+x)^2", "x^{2}+2x+1", "x²+2x+1", "x*x + 2*x + 1", "x**2+2x+1")
same("common factors", r"\frac{x^2-1}{x-1}", "x+1", "1+x", r"\frac{(x+1)(x-1)}{x-1}")
same("a sum of fractions", r"\frac{x+2}{7}", r"\frac{x}{7}+\frac27", r"\frac17(x+2)", "(x+2)/7")
same("rational functions", r"\frac{1}{x}+\frac1y", r"\frac{x+y}{xy}", r"x^{-1}+y^{-1}")
same("letters may stand together", "2xy", "2yx", r"2x\cdot y", "2 x y", "y(2x)")
same("Greek letters", r"2\theta", "2θ", r"\theta+\theta", r"2 \theta")
same("indices", "2x_1", "2x_{1}", "x_1+x_1", "2x₁")
same("powers of powers", r"\frac{1}{3\sqrt[3]{x}^2}", r"\frac{1}{3}x^{-2/3}", r"\frac{1}{3x^{2/3}}")
same("roots of letters", r"\sqrt{12x}", r"2\sqrt{3x}", r"2\sqrt3\sqrt x", r"2\sqrt{3}x^{1/2}")
same("squares of roots", "x", r"(\sqrt{x})^2", r"\sqrt{x}\cdot\sqrt{x}")
same("trigonometric identities", r"\sec^2 x", r"\tan^2 x+1", r"\frac{1}{\cos^2 x}", r"1+\tan^2(x)")
same("double angles", r"\sin 2x", r"2\sin x\cos x", r"\sin(2x)", r"2\cos x \sin x")
same("the sum of squares", "1", r"\sin^2 x+\cos^2 x")
same("exponentials", "2^{n+1}", r"2\cdot 2^n", r"2^n+2^n", r"2^n\cdot 2")
same("absolute values of letters", "|x-5|", "|5-x|", r"\left|x-5\right|")
same("functions of something", "f(x+1)", "f(1+x)")
same("sums over an index", r"\sum_{k=0}^{n} k x", r"\sum_{k=0}^{n} x k")
same("coefficients are exact", "0.1x", r"\frac{x}{10}", r"\frac{1}{10}x")
apart("letters", "x+1", "y+1", "X+1", "x_1+1", "x'+1")
apart("coefficients", "2x+3", "3x+2", "2x-3", "5x")
apart("exponents", "x^2", "x^3", "2x")
apart("a root of a square has a sign", r"\sqrt{x^2}", "x", "-x")
apart("absolute values", "|x|", "x", "-x", "|y|")
apart("pieces of an absolute value", "|x^2-11x+30|", "x^2-11x+30", "-x^2+11x-30")
apart("factors under roots", r"\sqrt{(x-5)^2(x+1)}", r"(x-5)\sqrt{x+1}", r"(5-x)\sqrt{x+1}")
apart("triangle inequality", "|a+b|", "|a|+|b|")
apart("a product of roots", r"\sqrt{ab+1}", r"\sqrt{ab}+1")
apart("functions", r"\sin x", r"\cos x", r"\tan x", r"\sin y", r"\sin^2 x")
apart("arguments", "f(x)", "f(y)", "g(x)", "f(2x)")
apart("powers of sums", "(a+b)^2", "a^2+b^2")
apart("exponentials", "2^n", "n^2", "2n", "2^{n+1}")
apart("tiny coefficients", "x", r"x+\frac{1}{10^{20}}")
apart("powers that are very small at some numbers", "x^{2024}", "0", "x^{2025}", "x^{2023}")
apart("where a fraction ends", r"\frac{x+1}{2}", r"x+\frac12")

# Lists, tuples, sets, intervals
same("lists in any order", "3, 5, 7", "7,5,3", "3,5,7", "3, 7 and 5", r"\{3,5,7\}", "3, 5, and 7", r"3,\ 5,\ 7", "5; 3; 7", r"3, 5, \text{ and } 7", "3 or 5 or 7")
same("repetitions in sets", r"\{1,2\}", r"\{2,1,1\}", r"\{\frac{2}{2}, \sqrt4\}")
same("plus-minus is two values", r"1\pm\sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", r"\{1-\sqrt{19},1+\sqrt{19}\}", "1±√19")
same("plus-minus among others", r"\{1\pm\sqrt5,-2\}", r"-2, 1+\sqrt5, 1-\sqrt5")
same("tuples", "(3, 4)", "(3,4)", r"\left(3,4\right)", r"\left( 3, \frac{8}{2} \right)", "(3;4)", "( 3 , 4 )")
same("tuples in tuples", "((1,2),3)", "((1, 2), 3)")
same("sets of points", "(1,2),(3,4)", "(3,4),(1,2)", "(1,2) and (3,4)", r"\{(1,2),(3,4)\}")
same("a column may be written as a tuple", r"\begin{pmatrix}1\\2\\3\end{pmatrix}", "(1,2,3)", r"\begin{bmatrix}1\\2\\3\end{bmatrix}")
same("brackets of vectors", r"\langle 1,2 \rangle", "⟨1,2⟩", "(1,2)")
same("a list with an ellipsis", "1, 2, ..., 5", "1,2,3,4,5", r"1, 2, \ldots, 5")
same("intervals", r"[-2,7]", r"[-2, 7]", r"\left[-2,7\right]", r"[-2,\frac{14}{2}]")
same("unions", r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)", r"(-∞,2)∪(3,∞)", r"(-\infty,2) \cup (3,+\infty)")
same("intervals that touch", r"[1,3]", r"[1,2]\cup[2,3]", r"[1,2)\cup[2,3]", r"[1,2]\cup(1,3]")
same("a gap of a point", r"(-\infty,0)\cup(0,\infty)", r"\mathbb{R}\setminus\{0\}", r"x\ne 0", r"x \neq 0")
same("all real numbers", r"(-\infty,\infty)", r"\mathbb{R}", r"x\in\mathbb{R}", "ℝ")
same("the empty set", r"\emptyset", r"\{\}", r"\varnothing", "∅")
same("intersections", "(1,2)", r"(0,2)\cap(1,3)")
same("set builders", r"\{x \mid x > 5\}", r"(5,\infty)", r"\{x : x > 5\}", r"\{x | 5 < x\}")
apart("order in tuples", "(3,4)", "(4,3)", "(3,4,0)")
apart("brackets", "(1,2)", "[1,2]", "[1,2)", "(1,2]", r"\{1,2\}")
apart("sets", r"\{1,2\}", r"\{1,2,3\}", r"\{1,3\}", "1")
apart("lists", "1, 2", "1, 3", "2, 3", "12")
apart("a list and its sum", "1, 2", "1+2")
apart("an ellipsis is not nothing", "1, 2, 3, ..., 6", "1, 2, 3", "1,2,3,6")
apart("intervals", "(2,5)", "(2,6)", "(1,5)", r"(2,\infty)")
apart("one of two values", r"\pm 2021", "2021", "-2021")
apart("infinities", r"\infty", r"-\infty", "0")
apart("sets of points", "(1,2),(3,4)", "(1,3),(2,4)", "(1,2)")

# Equations, inequalities, names
same("a name may be left out", "5", "x=5", "x = 5", "$x = 5$", r"x=\frac{10}{2}", "k=5", "f(x)=5", "|AB|=5", "5=x", r"\angle A = 5")
same("a chain ends in its value", "11", "x=5+6=11", "5+6=11", "x = 5 + 6 = 11")
same("an approximation behind the value", r"\sqrt2", r"\sqrt2\approx1.414", r"x=\sqrt2 \approx 1.4")
same("an approximation alone", "11", r"x\approx 11", r"\approx 11")
same("named values as a tuple", "(3,2)", "(p,q)=(3,2)", "p=3, q=2", "p=3 and q=2", "q=2, p=3")
same("named values without names", "4, 5", "AB=4, CD=5", "AB = 4, CD = 5")
same("several values of one name", "1, 2", "x=1,2", "x=1 or x=2", "x = 1, x = 2", "x=1, 2", r"x\in\{1,2\}")
same("equations up to a factor", "2x+4y-3=0", r"y=-\frac12x+\frac34", "4x+8y=6", "-2x-4y+3=0", "3-2x=4y", "2x + 4y = 3")
same("an ellipse", r"\frac{x^2}{4}+\frac{y^2}{3}=1", "3x^2+4y^2=12", r"\frac{x^2}{16}+\frac{y^2}{12}=\frac14")
same("what a letter is", "y=2x+3", "2x+3", "y = 3 + 2x", "y = 2x + 3")
same("a function and its value", "f(x)=x^2+1", "x^2+1", "f(x) = 1 + x^2")
same("inequalities", "x>5", "5<x", "x > 5", r"x\gt 5", r"(5,\infty)", r"x\in(5,\infty)", "-x<-5", "2x>10", "x-5>0")
same("closed inequalities", r"x\ge 5", "x>=5", r"x \geq 5", r"5\le x", "x ≥ 5", r"[5,\infty)", r"x\geqslant 5")
same("double inequalities", r"-2\le x\le 7", r"x\in[-2,7]", "[-2,7]", "-2<=x<=7", r"7\ge x\ge -2", r"x \ge -2 \text{ and } x \le 7")
same("unions of inequalities", r"x<1 \text{ or } x>3", r"(-\infty,1)\cup(3,\infty)", "x > 3 or x < 1")
same("absolute values in inequalities", "|x|<3", "-3<x<3", "(-3,3)", "|2x|<6")
same("shifted absolute values", "|x-1|<2", "-1<x<3", r"(-1,3)", "|1-x|<2")
same("inequalities in two letters", "x+y<3", "3>x+y", "2x+2y<6", "-x-y>-3")
apart("equations", "y=2x+3", "y=3x+2", "x=2y+3", "y=2x-3")
apart("an equation is not its side", "7=11a+c", "11a+c", "7")
apart("what is zero", "a+3z=0", "0")
apart("names of values", "x=1, y=2", "x=2, y=1")
apart("names", "x=5", "y=5", "x=6")
apart("directions", "x>5", "x<5", r"x\ge5", "x=5", r"x\ne5")
apart("bounds", "x>5", "x>6", "2x>5")
apart("inequalities in two letters", "x+y<3", "x+y>3", r"x+y\le3", "x-y<3")
apart("a false equation is unlike a value", "x = 3", "x = 4")
apart("chains", "f(2)<f(1)<f(4)", "f(1)<f(2)<f(4)", "f(2)<f(1)<f(3)")

# Matrices
same("kinds of brackets around matrices", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \\ \end{pmatrix}", r"\begin{pmatrix}1&\frac42\\3&\sqrt{16}\end{pmatrix}")
same("sums and products of matrices", r"\begin{pmatrix}2&4\\6&8\end{pmatrix}", r"2\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}+\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}2&0\\0&2\end{pmatrix}\begin{pmatrix}1&2\\3&4\end{pmatrix}")
apart("matrices", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}", r"\begin{pmatrix}1&2&3&4\end{pmatrix}")

# Bases, ratios, times, text, choices
same("bases", "204_5", "204_{5}", r"204_{\text{five}}", "(204)_5", "0204_5")
same("base ten is none", "54", "54_{10}")
apart("bases", "204_5", "204", "204_6", "54", "203_5")
same("ratios", "2:3", "4:6", "2 : 3", "A:B=2:3")
apart("ratios", "2:3", "3:2", "2:3:4", "1:3")
same("times of day", "3:30 pm", "3:30 p.m.", "3:30 PM", "15:30", r"3:30\text{ p.m.}")
apart("times of day", "12:00", "1:00", "12:30", "3:30 am", "3:30 pm")
same("text in any case and setting", r"\text{Evelyn}", "Evelyn", "evelyn", "**Evelyn**", r"\textbf{Evelyn}", "“Evelyn”", "Evelyn.", r"$\text{Evelyn}$")
same("words", "even", r"\text{even}", "Even", "EVEN", "$Even$")
same("yes and no", "yes", "Yes", "Yes.", r"\text{Yes}", "Yes, it is.")
same("words with spaces", "New  York", "new york", r"\text{New York}")
same("number words", "five", "5", "Five")
apart("words", "even", "odd", "east", "west")
apart("yes and no", "yes", "no")
apart("short words are no products", "no", "on")
apart("words in another order", "Alice then Bob", "Bob then Alice")
same("choices", r"\text{(C)}", "C", "(C)", r"\text{C}", "$C$", r"\mathrm{C}")
apart("choices", "(A)", "(B)", "C", "D")

same("scale words", "1500000", "1.5 million", r"1.5\text{ million}")
same("words for sets", r"\mathbb{R}", "all real numbers", r"\text{all real numbers}")
same("no solution", r"\emptyset", "no solution", r"\text{no solutions}")
same("dates", "January 5", "5 January", "January 5th", "Jan 5", "5th of January")
same("dates with a year", "2020-01-05", "January 5, 2020", "5 January 2020")
apart("scale words", "1.5 million", "1.5", "1.5 billion")
apart("words behind a number that change it", "5", "5 squared", "5 factorial", "5 halves", "5 or more", "5th")
apart("comparisons in words", "5", "at least 5", "more than 5")
apart("a list is no decimal", "1,2", "1.2", "12")
apart("dates are no differences", "2020-01-05", "2014")
apart("letters in an order", "BDC", "CBD", "BCD")
apart("a list that goes on", "1, 2, 3, ...", "1, 2, 3")
apart("a price is not its figure in another currency", "$100", "€100", "100 yen")
unknown("a formula that is not understood, or is broken off", r"\foo{1}{72}", r"\frac{1}{72", r"\sqrt{", "(1, 2", r"\left(1")
unknown("what could be two things", "1/2x", "2 3", "x2", r"2\frac{3}{2}", "1/2/3", r"\sqrt13", "0.5(3)", r"1\pm2\pm3")
unknown("what has no value", "1/0", r"\frac{0}{0}", "0^0", r"\ln 0", r"\frac{x}{x-x}")
same("powers that are too long to be computed", "2^{2^{100}}", "4^{2^{99}}", "2^{1267650600228229401496703205376}")
same("towers", "9^{9^9}", r"3^{2\cdot 9^9}", "9^{387420489}")
apart("towers", "2^{2^{100}}", "2^{2^{99}}", "3^{2^{100}}", "2^{2^{100}-1}", "9^{9^9}")
same("set builders with a domain", r"(3,\infty)", r"\{x \in \mathbb{R} : x > 3\}", r"\{x\in\mathbb{R} \mid 3<x\}")
same("prices with a comma", "€3.50", "€3,50")
unknown("what is too large to be computed", "9^{9^{9^9}}", "100000!", "2^{2^{2^{100}}}+1")
unknown("a power that is too high to be computed", "x^{999999999}", r"(1+\sqrt2)^{-100000}", r"e^{-1000}")
unknown("lists of nothing", ",", r"\{,\}")
unknown("a sum that is wrong", "2+2=5", "1=2")
unknown("a difference that is too small to be told from none", r"\sqrt2-1.41421356237309504880168872420969807856967187537694807317667973799073247846210703885038753432764157273501384623091229702492483605585073721264412149709993583141322266592750559279995050115278206057147010955997160597027453445968620147285174186408891986095523292304843087143214508397626036279952514079896")
unknown("a box that is never closed, or is empty", r"\boxed{47", r"\boxed{1}, then \boxed{2", r"\boxed{}", r"The answer is 5, or \boxed{")

same("a price in millions", "$10 million", "$10,000,000", r"\$10\text{ million}", "10 million dollars")
apart("a price in millions", "$10 million", "$10", "€10 million")
apart("a price in millions", "$10 million", "10")
apart("a share is no percentage of its own figure", "0.5", "0.5%")
apart("points from names", "x=1, y=2", "(2,1)")
apart("points from names in another order", "y=2, x=1", "(2,1)")
unknown("a thousand in brackets, or a point", "(1,000)")
apart("denials", "42", "It is not 42", "maybe 42", "I don't know if it is 42")

# Names, chains, sets in sets
same("a name of several letters", "5", "|AB| = 5", r"\overline{AB} = 5", r"m\angle ABC = 5", "x_1 = 5", "f(2) = 5", "P(X=2) = 5", r"\text{Area of } ABC = 5")
same("a name in bold, or of a difference or a mean", "5", r"\mathbf{v} = 5", r"\Delta x = 5", "E[X] = 5", r"\text{Var}(X) = 5", r"\overrightarrow{AB} = 5")
same("a ratio of names", "2/3", r"\frac{a}{b} = \frac{2}{3}", r"\frac{AB}{CD} = 2/3", "a/b = 2/3")
same("a derivative has a name", "2x", r"\frac{dy}{dx} = 2x", "y' = 2x", "f'(x) = 2x")
same("an inverse function has a name", "2x", "f^{-1}(x) = 2x")
same("a formula on the way to a value", r"25\pi", r"A = \pi r^2 = 25\pi", r"A = \pi \cdot 5^2 = 25\pi")
same("a formula in two forms", "x^2+2x+1", "f(x) = (x+1)^2 = x^2+2x+1")
same("sides that are computed", "2x=10", "2x = 4 + 6 = 10")
same("several names of one value", "x = y = 5", "x = 5 = y", "5 = x = y")
apart("a formula is no name", "5", r"\frac{x}{2} = 5", r"\frac{1}{x} = 5", "|x| = 5", "x(y+1) = 5", "2x = 5")
apart("where a fraction is divided", r"\frac{a}{bc} = 5", r"\frac{ab}{c} = 5", r"\frac{abc}{d} = 5")
apart("where a bar or an index ends", r"\overline{AB} = 5", r"\overline{A}B = 5", "x_{1}y = 5", "x_{1y} = 5")
apart("arguments", "f(1,2) = 5", "f(12) = 5", "f(2,1) = 5")
apart("a fraction that is more than a number", r"\frac{1}{x} > 5", r"\frac{12}{x} > 5", r"x > 5")
apart("the middle of a chain", "x = 5 = y", "x = 6 = y", "y")
apart("letters that are equal", "x = y = z", "x = y", "z")
unknown("what a formula is about", r"x+y \approx 5", r"2x \approx 5", r"x = 2y \approx 5")
unknown("sums that are wrong", "3=4=7", "2+2=5=7", "x+1=2=3")
same("a set in a set", r"\{\{1,2\},\{3\}\}", r"\{\{3\},\{2,1\}\}", r"\{1,2\},\{3\}")
apart("sets in sets", r"\{\{1,2\},\{3,4\}\}", r"\{1,2,3,4\}", r"\{\{1,2,3,4\}\}", r"\{\{1,3\},\{2,4\}\}", r"\{1,2,\{3,4\}\}")
apart("sets of one member", r"\{1\}", r"\{\{1\}\}", r"\{\{\{1\}\}\}", r"\{\}", r"\{\{\}\}")
same("a set that is what a letter is in", "1, 2, 3", r"x \in \{1,2\} \text{ or } x = 3")
apart("a function is no factor", "P(2)", "2P", "P(3)", "Q(2)")
apart("a mean is no product", "E[X]", "EX", "E[Y]")
apart("a Greek function is no factor", r"\phi(10)", r"10\phi", r"\phi(5)")
same("a function of two arguments", "f(x, y+1)", "f(x, 1+y)")
apart("the order of arguments", "f(x, y)", "f(y, x)")
same("a letter before a sum is a factor", "x^2+x", "x(x+1)", "x(1+x)")
same("a number before a bracket is a factor", r"25\pi", r"\pi(5^2)", r"\pi(34-9)")
unknown("a letter that may be a function", "P(x+1)", "P(1+r)^n", r"\mu(x+1)")
unknown("a derivative is no fraction", r"\frac{dy}{dx}", r"\frac{d}{dx} x^2")
unknown("a column that is missing", r"\begin{pmatrix}1&&2\end{pmatrix}")
unknown("minus a point, or an interval that is turned around", "-(1,2)")
unknown("a bracket around nothing but a formula", "[x]", "[2.5]")
same("a list of the same number", "[1,1]", "[ 1, 1 ]")
apart("a list of the same number is not the number", "[1,1]", "1")
unknown("what an exponent or a slash reaches", "x^ab", "a/bc", "x^{(2)}")

# Functions of small numbers
unknown("compositions that are the same to many orders", r"\sin(\tan(10^{-50}))", r"\tan(\sin(10^{-50}))", r"\sinh(\arctan(10^{-40}))", r"\tanh(\arcsin(10^{-40}))", r"\tanh(10^{-60})", r"\sin(\tan(\pi+10^{-60}))", r"\sqrt{3-\frac{2}{1+\sqrt2\cdot10^{-110}}}", r"\sin(\tan(10^{-50}x))")
apart("compositions of numbers that are not so small", r"\sin(\tan\frac13)", r"\tan(\sin\frac13)", r"\sin(\tan 10^{-9})", r"\tan(\sin 10^{-9})")
apart("hyperbolic compositions", r"\sinh(\arctan 10^{-12})", r"\tanh(\arcsin 10^{-12})")
same("a logarithm of a long number", "300", r"\log_2(2^{300})", r"\frac{\ln(2^{300})}{\ln 2}")
same("a root of a long number", r"2\sqrt{2^{298}+1}", r"\sqrt{2^{300}+4}")

# Units
same("prefixes of units", "5 kHz", "5000 Hz", r"5\text{ kHz}", "0.005 MHz", "5 kilohertz", "5")
same("degrees Celsius", "20 degrees Celsius", "20°C", r"20^\circ\text{C}", "20", r"20\text{ degrees C}")
same("units with a negative exponent", "5", r"5\text{ m s}^{-1}")
same("negative exponents and slashes", r"5\text{ m s}^{-1}", r"5\text{ m/s}", "5 meters per second")
same("amounts of money by letters", "$5,000,000", "$5M", "5 million dollars", "$5000k")
same("money per time", "$5 per hour", "5 dollars an hour", "5 dollars per hour", "5")
same("what is counted may be left out", "5", "5 boxes", "5 red apples", "5 pairs of shoes", "5 cups of flour", "5 students per class", "5 ways", "5 points")
same("boxes and pennies are plurals", "1 box", "1 boxes")
same("plurals in -ies", "1 penny", "1 pennies")
same("what is added to a unit and says nothing", "5 cm", "5 cm long", "5 cm in total", "5 cm each")
same("dozens", "60", "5 dozen", "5 dozens", r"5\text{ dozen}")
same("a dozen of something", "60 eggs", "5 dozen eggs", "60")
same("per cent in two words", "5%", "5 per cent", "5")
apart("a word that makes another number", "5", "5 lakh", "5 dozens", "5 tens", "5 thousands", "5 twelfths", "5 thirteenths")
apart("a word that says something else", "5", "5 below zero", "5 left", "5 wrong", "5 doubled", "5 minimum", "5 clockwise", "5 in base eight", "5 in a row", "5 times")
apart("digits that repeat", "0.3", "0.3 repeating", "0.3 recurring")
apart("digits in a base", "12", "12 hexadecimal", "12 base eight")
apart("the case of symbols", r"5\text{ MW}", r"5\text{ mW}", r"5\text{ mw}", "5 W")
apart("bits and bytes", r"5\text{ Mb}", r"5\text{ MB}", r"5\text{ mb}")
apart("tons", "5 tons", "5 tonnes", "5 kg")
apart("the order of words", "5 dog cats", "5 cat dogs", "5 cats")
apart("inches and what is in something", "12 in", "12 in base eight")
apart("money in thousands", "$5k", "$5", "$5M")
apart("what is below the line of a unit", r"5\text{ J/kg K}", r"5\text{ J K/kg}")
unknown("what is below the line of a unit", r"5\text{ J}/\text{kg}\cdot\text{K}")
unknown("two numbers with one unit", "5-6 hours", "1-1/2 cups", "5×6 cm", "5 × 6 matrix")
unknown("ranges, codes and mixed numbers", "5-6", "555-1234", "5-6-7", "5-1/2", "10--15")
unknown("set builders about another letter", r"\{x \mid a > 3\}")
unknown("what is never an interval", r"(5,12) \cup (4,2)")
unknown("letters that cancel", "x = x + 5", "x < x + 5", r"2 < \frac{2x}{x}")

same("letters behind a number, where somebody says that they are a unit", "5 meters", "5 m", "5m", "$5m$", "500 cm")
same("a formula of letters, where somebody says that it is a unit", r"9.8\text{ m/s}^2", "9.8 m/s^2", "9.8 m/s^{2}")
same("kilonewtons", r"5\text{ kN}", "5 kN", "5000 newtons")
apart("letters behind a number, where nobody says that they are a unit", "5 m", "5", "5 s", "5x")
apart("exponents of units in text", r"5\text{ m^{-1}}", r"5\text{ m}", r"5\text{ m^-2}", r"5\text{ m^{2}}")

# Words and times
same("midnight", "0:00", "24:00", "12:00 am", "midnight", "12 midnight", "00:00")
same("noon", "12:00 pm", "noon", "12 noon", "12 pm")
same("minutes after midnight", "0:30", "12:30 am", "00:30")
apart("noon and midnight", "24:00", "12:00 pm", "12:30 am", "0:01")
apart("a time that is none", "24:30", "12:30 pm", "12:30 am")
same("a yes that is explained", "yes", "Yes, because it is even.", "Yes. It does.", "Yes, that's right")
apart("a no that is followed by an answer", "no", "No, 5", "No, 6", "No, yes", "No, Paris")
apart("Greek letters in words", r"\text{α-particle}", r"\text{β-particle}", r"\text{particle}")
same("commands that are words", r"\alpha \text{ particle}", r"\text{α particle}")

# Whole responses
same("the last box", "47", r"so \boxed{47}.", r"\boxed{1}, no: \boxed{47}", r"We get $\fbox{47}$.", r"\boxed{\boxed{47}}")
same("boxes that are listed", "1, 2", r"$\boxed{1}$ and $\boxed{2}$", r"\boxed{1}, \boxed{2}", r"\boxed{1,2}", r"$x=\boxed{2}$ or $x=\boxed{1}$")
same("announcements", "47", "The answer is 47.", "steps\n#### 47", "**Final answer:** 47", "So the final answer is $47$. I hope it is correct.", "Answer: 47", "答案是47", "The answer is: **47**")
same("a final answer behind a box", "47", "First \\boxed{46}. Final Answer: The final answer is $47$. I hope it is correct.")
same("the only formula of a sentence", "x>5", "Therefore $x > 5$ is the solution.")
apart("a box that is not the last", "1", r"\boxed{1}, no: \boxed{2}")

# Spellings of LaTeX
same("arguments without braces", r"\frac{3}{4}", r"\frac34", r"\frac 34", r"\frac3{4}", r"\frac{3}4", r"\cfrac{3}{4}")
same("roots without braces", r"\sqrt{2}", r"\sqrt2", r"\sqrt 2", "√2", "sqrt2", r"2^{1/2}", r"2^{0.5}", r"2^\frac12")
same("spacing", r"x+1", r"x\,+\,1", r"x \; + \quad 1", r"{x}+{1}", r"\left(x+1\right)", r"\displaystyle x+1")
same("signs of multiplication", "2x", r"2\cdot x", r"2\times x", "2*x", "2·x", "x+x", r"2\ast x")
same("doubled backslashes", r"\frac{1}{2}", r"\\frac{1}{2}")

# Units that are written twice
same("a sign and a word for one unit", "$5", "$5 dollars", "$5 USD", r"\boxed{\$5 \text{ dollars}}", "Therefore, she has $5 dollars.", "5")
same("a sign and a word for one unit behind a scale", "$5,000,000", "$5 million dollars", "5 million USD")
same("a symbol and a word for one unit", "5 cm", "5 cm centimeters", r"5\text{ cm centimeters}")
same("degrees in a sign and a word", r"5^\circ", r"5^\circ \text{ degrees}", "5° degrees", "5 degrees")
apart("a unit and its square", "5 cm", "5 square cm", r"5\text{ cm}\cdot\text{cm}^2")
apart("a unit that may be squared", r"5\text{ m }\text{m}", r"5\text{ m}", r"5\text{ m}^2")
unknown("a unit next to another one of its kind", "$5 cents", r"5\text{ m}^2\text{m}")

# What is below a line
same("a fraction that a space sets off", r"\frac{x}{2}+3", "1/2 x + 3", r"1/2\, x+3", "0.5x+3")
same("a fraction before a letter of a formula", r"\frac{4}{3}\pi r^3", r"4/3 \pi r^3")
unknown("what is below a slash", r"1/2\pi", "1/2x", "1/xy", "1/x y", "1/2(x+1)", r"3/4\sqrt{2}")
same("a factor with a sign of its own", r"\frac{x}{2}", "1/2 * x", r"(1/2) x", r"1/2 \cdot x")

# Lists, and amounts in several units
apart("how often a list has something", "3", "3, 3", "3, 3, 3")
apart("what a list has twice", "1, 1, 2", "1, 2, 2", "1, 2", r"\{1, 1\}")
same("a point that is written twice", "(1,2), (3,4)", "(1,2), (3,4), (1,2)")
same("lists with repetitions in any order", "1, 1, 2", "1, 2, 1", "2, 1 and 1")
same("one thing that is said in two ways", r"\frac12", r"\frac12 or 0.5", r"\frac12 \text{ or } 50\%", r"\{\frac12, 0.5\}")
apart("values of two names that are the same", "x = 1, y = 1", "1", "x = 1, y = 2")
same("values of two names that are the same, without them", "x = 1, y = 1", "1, 1", "(1, 1)")
same("an amount in two units", "150 minutes", "2 hours and 30 minutes", "2.5 hours")
same("an amount in three units", "3665 seconds", "1 hour, 1 minute and 5 seconds")
same("dollars and cents", "$18.50", "18 dollars and 50 cents", "18.5 dollars")
apart("amounts and what is one of them", "2 hours and 30 minutes", "2 hours or 30 minutes", "2 hours", "30 minutes", "2.5", "2 hours and 31 minutes")
apart("two lengths in one unit", "5 cm and 3 cm", "8 cm", "5 cm", "5 cm and 3 kg")
unknown("one amount, or two", "3 hours and 180 minutes", "30 minutes and 2 hours", "2 hours, 30 minutes", "2.5 hours and 30 minutes", "2 hours and -30 minutes")

# What is left
same("things that are left", "5", "5 eggs left", "5 apples remaining", "there are 5 eggs left", r"\boxed{5 \text{ eggs left}}", r"\boxed{\$5 \text{ left}}", "5 dollars left")
same("things that are left are things", "5 eggs", "5 eggs left", "5 eggs remaining", "There are 5 eggs remaining.")
same("a quantity that is set as text", "5 apples", r"\boxed{\text{5 apples}}", r"\text{5 apples}", r"5\text{ apples}", "5")
same("a quantity with a known unit that is set as text", "500 cm", r"\text{5 meters}")
same("units with a short name", "30 miles per hour", "30 mph", "30 MPH", r"30\text{ mph}", "30 mi/h", "30")
same("kilometres per hour", "30 km/h", "30 kph", "30 kmph")
same("turns per minute", "30 revolutions per minute", "30 rpm")
apart("what may be a place", "5 m left", "5", "5 m", "5 m right", "5 units left", "5 units right")
apart("what may be a move", "5 places left", "5 places right", "5 places")
apart("what may be a turn", "5 degrees left", "5 degrees", "5 degrees right")
same("a length that is left", "5 miles", "5 miles remaining", "5")
apart("what is left of different things", "5 eggs left", "5 apples left", "6 eggs left", "5 left", "5 hours left")
apart("quantities that are set as text", r"\text{5 apples}", r"\text{5 pears}", r"\text{6 apples}", r"\text{apples}")
apart("speeds", "30 mph", "30 kph", "30 rpm", "30 miles", "30 mph squared")

# Answers in responses, as small models write them
same(
    "what a response announces",
    "12",
    "So, the answer is: 12",
    r"The final answer is $\boxed{12}$.",
    r"The final answer is: $\boxed{12}$. I hope it is correct.",
    "Let's add.\n\n5 + 7 = 12\n\nThe answer is 12.",
    "#### 12",
    "He has 5 + 7 = 12 apples.\n#### 12",
    "**Answer:** 12",
    "**Answer**: 12",
    "**Final Answer:** 12",
    "**Final Answer**\n12",
    "### Final Answer\n\n12",
    "### Answer: 12",
    "Final Answer: 12",
    "final answer: 12.",
    "Answer: **12**",
    "Answer:\n12",
    "The answer is **12**.",
    "**The answer is 12.**",
    "The answer is:\n\n**12**",
    "The answer is $12$.",
    r"The answer is \(12\).",
    "The answer is: \\[\n12\n\\]",
    "The answer is:\n\n$$12$$",
    "the answer is therefore 12",
    "The answer is simply 12.",
    "The answer is equal to 12.",
    "Therefore, the correct answer is 12.",
    "Thus, our final answer is 12.",
    "We get 5 + 7 = 12, so the answer is 12.",
    "We get 5 + 7 = 12 so the answer is 12.",
    "Hence the required answer is 12.",
    "I believe that the answer is 12.",
    "The answer to this question is 12.",
    "The answer should be 12.",
    "The answer is x = 12.",
    "The answer is that x = 12.",
    "The answer is 5 + 7 = 12.",
    "The answer is 12, because 5 + 7 is 12.",
    "The answer is 12 because there are 5 and 7.",
    "The answer is 12, since 20 - 8 = 12.",
    "The answer is 12. This is because 5 + 7 = 12.",
    "Answer: 12\n\nExplanation:\nFirst we count 5 apples. Then we count 7 more.",
    "The answer is 12. So Tom has 12 apples.",
    "The answer is 12. I hope this helps!",
    "The answer is 12. I hope the answer is correct.",
    "The answer is 12.\n\nQuestion: What is 3 + 4?\nAnswer: The answer is 7.",
    "The answer is 12.<|im_end|>\n<|im_start|>user\nAnd 3 + 4? The answer is 7.",
    "The answer is 11. Wait, I made a mistake. The answer is 12.",
    "所以答案为 12。",
    "答案：12",
)
same(
    "a unit beside what is announced",
    "12",
    "**Answer:** 12 apples",
    "Answer: 12 cm",
    "The answer is 12 apples in total.",
    "The answer is $12.",
    "Answer: 12 hours",
    "#### 12 apples",
)
same(
    "letters of choices",
    "B",
    "Answer: B",
    "Answer: (B)",
    "The answer is (B).",
    "The answer is **B**.",
    "The correct answer is B.",
    "**Answer: B**",
    r"\boxed{\text{B}}",
    "The answer is B, since 5 is odd.",
)
same(
    "yes",
    "yes",
    "The answer is yes.",
    "Answer: Yes",
    "**Yes**",
    "The answer is yes, because 7 is prime.",
    "Yes, it is.",
    "Yes, since 7 is prime.",
)
same(
    "no",
    "no",
    "The answer is no.",
    "The answer is no, because the remainder is 6.",
    "No, it is not.",
    "No, it isn't.",
    "Let me see. It is even.\n\n**No**",
)
same(
    "an answer in words",
    "Paris",
    "The answer is Paris.",
    "**Answer:** Paris",
    "So the answer is: Paris",
    r"\boxed{\text{Paris}}",
    "Here is what I know.\n\n**Paris**",
)
same(
    "what a last sentence concludes",
    "12",
    "Tom has 5 apples. He buys 7.\nTherefore, there are 12 apples in total.",
    "He buys 7 apples and has 5.\nSo, Tom has 12 apples.",
    "First, 5. Then 7 more.\n\nThus, the total is 12.",
    "First, 5. Then 7 more.\n\nTherefore, the total cost is $12.",
    "First, 5. Then 7 more.\n\nHence, she sold a total of 12 clips in April and May.",
    "First, 5. Then 7 more.\n\nTherefore, $x = 12$.",
    "First, 5. Then 7 more.\n\nTherefore, the value is $12$. I hope this helps!",
    "First, 5. Then 7 more.\n\nIn total, they have 12 apples.",
    "First, 5. Then 7 more.\n\nThe total is **12**.",
    "First, 5. Then 7 more.\n\n**12**",
    "First, 5. Then 7 more.\n\nTherefore, 12 apples were sold.",
    "First, 5. Then 7 more.\n\nAs a result, he needs 12 eggs.",
)
same(
    "what a short sentence says",
    "12",
    "There are 12 apples.",
    "It is 12.",
    "x is 12",
    "The total is $12$.",
    "Total: 12",
    "Tom has 12 apples left.",
)
same(
    "the last number that a verb gives, as a guess",
    "12",
    "We took 5 of them first, and it was clear to all of us in the room that there are now 12",
    "They had eaten 3 of all the 15 cakes on the table in the kitchen, and so there were 12 cakes",
)
same(
    "several answers",
    "2, 3",
    "The answers are 2 and 3.",
    "The answer is x = 2 or x = 3.",
    r"\boxed{x = 2} or \boxed{x = 3}",
    r"\boxed{2} and \boxed{3}",
    r"$\boxed{2}$, $\boxed{3}$",
    r"\boxed{2}, x = \boxed{3}",
    "\\boxed{2}\n\nand\n\n\\boxed{3}",
    "Answer: 2, 3",
    "The solutions are 2 and 3",
)
same(
    "the last box counts",
    "12",
    r"\boxed{11} is wrong, so \boxed{12}",
    r"\boxed{11}, wait, \boxed{12}",
    r"not \boxed{11} but \boxed{12}",
    r"\boxed{11} and adding one gives \boxed{12}",
    r"\boxed{11} and the correct value was \boxed{12}",
    r"\boxed{11} is wrong. The answer is 12.",
    "$$\\boxed{12}$$\n\nThis is the number of apples, which 5 and 7 add up to.",
    r"Therefore, there are $\boxed{12}$ apples.",
    r"The smallest number not divisible by 5 is \boxed{12}.",
    r"- \boxed{12}",
    r"x \equiv \boxed{12} \pmod{17}",
    r"\boxed{12} - that is the answer",
    r"\boxed{12}. Note that 5 + 7 = 12. However, 13 is prime.",
)
apart("reasons are no answers", "6", "The answer is 5, because x is 6.", "The answer is no, because the remainder is 6.")
apart("a later answer", "5", "#### 5\n#### 7", r"\boxed{5}. Wait, that is wrong. \boxed{8}", r"\boxed{5} is wrong. The answer is 9.")
apart("a denial in words is no denied word", "Paris", "The answer is not Paris.", "The answer is London.")
apart("letters", "B", "The answer is not B.", "The answer is neither A nor B.", "The answer is A or B.", "The answer is C.")
unknown(
    "a number that is announced as another one",
    "The answer is not 5.",
    "The answer is not $5$.",
    "The answer is about 5.",
    "The answer is approximately $5$",
    "The answer is at least 5.",
    "The answer is more than 5.",
    "The answer is twice 5.",
    "The answer is the square of 5.",
    "The answer is the opposite of $5$.",
    "The answer is 5 less than x.",
    "The answer is neither 5 nor 6.",
    "The answer is either 5 or 6.",
    "The answer is anything except $5$.",
    "The answer is a multiple of 5.",
    "The answer is 12 in base 5.",
    "The answer is $5$ modulo seven.",
    "The answer is probably 5.",
    "The answer is unlikely to be $5$.",
    "The answer is close to 5.",
    "The answer is in step 5.",
    "The answer is given by equation (5).",
    "The answer is option 5.",
    "The answer is 5 when x = 6.",
    "The answer is $5$ where $x = 6$.",
    "The answer is 5?",
    "The answer is: 5 (wrong)",
    "The answer is 5, which is 6 less than 11.",
)
unknown(
    "an announcement that is taken back, or goes on with other numbers",
    "The answer is 5. Wait, no.",
    "The answer is 5. No, that is wrong.",
    "The answer is 5. Actually, the correct value is 6.",
    "The answer is 5.\nThe question asks for the double, so 10.",
    "The answer is 5. That is incorrect.",
    "The answer is 5. Sorry, I made a mistake.",
    "The answer is 1. 5",
    "The answer is",
    "The answer is:",
    "The answer is 5 +",
)
unknown(
    "boxes that are denied, taken back, empty, or a part of a formula",
    r"The answer is not \boxed{5}.",
    r"It cannot be \boxed{5}.",
    r"x \ne \boxed{5}",
    r"\boxed{5} is wrong.",
    r"\boxed{5} is not correct.",
    r"\boxed{5}? No. I don't know.",
    r"\boxed{5}. Wait, that's not right.",
    r"\boxed{5}. I apologize for the mistake.",
    r"neither \boxed{5} nor 6",
    r"\boxed{5}\boxed{}",
    r"\boxed{5}, x = \boxed{}",
    r"\boxed{5}, \boxed{",
    r"\boxed 5",
    r"\boxed{6} or \boxed 5",
    r"x = -\boxed{5}",
    r"2 \cdot \boxed{5}",
    r"\boxed{5}^2",
    r"\boxed{5} + 2",
    r"\boxed{5}\times 10^3",
)
unknown(
    "no number at the end of a response",
    "He has 5 apples and 6 pears, and he is going to give all of them to his sister. So the total is",
    "There are many things to say about this question, and most of them are in Figure 5",
    "The meeting that we are all looking forward to since the last one is on January 5",
    "The meeting that we are all looking forward to since the last one is on 2020-01-05",
    "After all that was said above about the numbers in this question, the ratio is 5:6",
    "After all that was said above about the numbers in this question, the value is 3 x 5",
    "After all that was said above about the numbers in this question, there are 2^5 ways",
    "After all that was said above about the numbers in this question, it is certainly not 5",
    "After all that was said above about the numbers in this question, there are 5 dozen eggs",
    "After all that was said above about the numbers in this question, there are about 5 eggs",
    "If all that was said above about the numbers in this question is right, there are 5 eggs",
)
same("a box in bold, and one with a unit", "12", r"**\boxed{12}**", r"**Answer: $\boxed{12}$**", r"\boxed{12}cm", r"The answer is \boxed{12}!")
unknown(
    "numbers that could be read in two ways, or are a part of something",
    "The answer is 5!",
    "The answer is question 5.",
    "Answer: 1) Find x",
    "Answer:\n1. Find x\n2. Done",
    "The answer is 5 (I am not sure).",
    "The answer is 5. But this is wrong.",
    "The answer is 5.\nLet me verify: 2+2=4. So it does not hold.",
    "We have everything that we need.\n\nTherefore, x is larger when y is 5.",
    "We have everything that we need.\n\nTherefore, Tom does not have 5 apples.",
    "We have everything that we need.\n\nTherefore, Tom has 5 times as many apples.",
    "We have everything that we need.\n\nTherefore, see step 5.",
    r"2\boxed{5}",
    r"\boxed{5}x",
    r"\boxed{5}_8",
    r"\frac{\boxed{5}}{2}",
    r"\frac{1}{\boxed{5}}",
    r"2^{\boxed{5}}",
    r"\boxed{5} \text{ or maybe } \boxed{6}",
)
# Roundings and what they may leave out
same("a rounding leaves out a name", r"x = \frac{1}{3}", "0.3333", "x = 0.3333", "0.33333")
same("a rounding leaves out a unit", r"\frac{1}{3}\text{ cm}", "0.3333")
same("roundings in intervals", r"[\frac13, 1)", "[0.3333, 1)")
same("roundings in tuples", r"(\frac13, \sqrt2, 5)", "(0.3333, 1.4142, 5)")
same("a rounding of many digits", r"\frac13", "0." + "3" * 500)
apart("a rounding of another name's number", "x = 1/3", "y = 0.3333", "x = 0.33")
apart("a rounding in another unit", r"\frac13\text{ cm}", r"0.3333\text{ kg}")
apart("roundings at other ends", "[1/3, 1)", "[0.3333, 1]", "(0.3333, 1)", "[0.3334, 1)", "[0.3333, 2)")
apart("roundings of only some", r"(\frac13, \sqrt2)", "(0.3333, 1.4143)", "(0.3333, 1.4142, 0)")
apart("roundings of each other", "0.3333", "0.33333")
apart("figures of one quantity in two units", r"5\text{ m}", "500")
unknown("numbers that are too long together", ", ".join(f"{n}e-399" for n in range(1, 12)), ", ".join(f"{n}e399+x" for n in range(1, 12)))
same("a long exponent", "1e-399", r"10^{-399}", "10e-400")
# What is said around boxes
apart("the names of listed boxes", r"$x=\boxed{3}$, $y=\boxed{5}$", r"$x=\boxed{5}$, $y=\boxed{3}$")
same("the names of listed boxes", "x = 3, y = 5", r"$x=\boxed{3}$, $y=\boxed{5}$", r"$y=\boxed{5}$ and $x=\boxed{3}$", r"So $x = \boxed{3}$ and $y = \boxed{5}$.")
same("one name of listed boxes", "2, 3", r"$x=\boxed{2}$ or $x=\boxed{3}$", r"\boxed{2} or $x=\boxed{3}$")
apart("brackets around listed boxes", r"(\boxed{3}, \boxed{5})", r"(\boxed{5}, \boxed{3})", r"$[\boxed{3}, \boxed{5})$")
same("brackets around listed boxes", "(3, 5)", r"(\boxed{3}, \boxed{5})", r"The point is $\left(\boxed{3}, \boxed{5}\right)$.")
unknown(
    "listed boxes whose names or brackets are not clear",
    r"(\boxed{1}, \boxed{2}), (\boxed{3}, \boxed{4})",
    r"(\boxed{3}, \boxed{5}",
    r"\boxed{2}x + \boxed{7}",
    r"\boxed{2} + \boxed{7}",
    r"\boxed{2}x, \boxed{7}",
)
unknown(
    "boxes that are a factor, an argument, a side or some digits of a formula",
    r"\boxed{3}\pi",
    r"\pi\boxed{3}",
    r"x\boxed{3}",
    r"\boxed{3}(x+1)",
    r"(x+1)\boxed{3}",
    r"0.\boxed{3}",
    r"\boxed{3}.5",
    r"$\boxed{3}!$",
    r"\log\boxed{3}",
    r"$x > \boxed{3}$",
    r"$x \le \boxed{3}$",
    r"$\boxed{3} < x$",
)
same(
    "boxes beside what is no part of their formula",
    "90",
    r"$\boxed{90}^\circ$",
    r"\(\boxed{90}^{\circ}\)",
    r"x + 5 = 95 \implies \boxed{90}",
    r"2x = 180 \Rightarrow x = \boxed{90}\quad\blacksquare",
    r"-> \boxed{90}",
    r"> \boxed{90}",
    r"<b>\boxed{90}</b>",
    r"\boxed{90}<br>",
    r"There is a \boxed{90}\% chance.",
    r"\boxed{90}!",
)
unknown(
    "doubt around a box",
    r"\boxed{7} maybe",
    r"\boxed{7} if x is odd",
    r"If Tom had 9 more apples, the answer would be \boxed{18}.",
    r"It could be \boxed{7}.",
    "\\boxed{7}\n\nHowever, with the tax the total is 20.",
    r"\boxed{7}. On second thought, it must be 20.",
)
same("conditions and reasons around a box", "7", r"If Tom has 5 apples and buys 2 more, he has \boxed{7}.", "\\boxed{7}\n\nHowever, other ways are longer.")
same(
    "headings and words about an answer behind it",
    "14",
    "\\boxed{14}\n\n#### 2. Alternative method",
    "\\boxed{14}\n\n#### 2) Checking",
    "The answer is 14.\n\n#### **Verification**",
    "The answer is 14.\n\n#### (b) Check",
    "The answer is 14.\n\nThe answer is correct.",
    "The answer is 14.\n\nThe answer is reasonable.",
    "The answer is 14.\n\nThe answer is in dollars.",
    "We add, and the answer is as follows:\n\n14",
    "\\boxed{14}\n\nThe answer must be 2 digits.",
    "\\boxed{14}\n\nIf x = 3, the answer is 6.",
    "\\boxed{14}\n\nAnswer: 1. We add",
    "#### **14**",
)
apart("another value behind an answer", "14", "The answer is 14.\n#### 2", "\\boxed{14}\n\nThe answer is 6.")
same(
    "another turn behind an answer",
    "18",
    "\\boxed{18}<|im_end|>\n<|im_start|>user\nAnd now?\n\\boxed{20}",
    *(f"\\boxed{{18}}\n{mark} What now?\n\\boxed{{20}}" for mark in ["User:", "Human:", "### Instruction:\n", "## Problem\n", "Problem 2:", "**Question:**", "Example 2:", "user\n"]),
    "The answer is 18.\n\nProblem 2: What now?\nThe answer is 20.",
    "Let me restate.\nQuestion: How many?\nAnswer: \\boxed{18}",
)
unknown("what holds the place of an answer", r"\boxed{answer}", r"\boxed{\text{your answer}}", r"\boxed{I don't know}", r"\boxed{\text{N/A}}", "The answer is N/A.")
unknown("another number in a heading behind an answer", "Therefore, the answer is 14.\n\n#### 2. Alternative method\nSame.")
same("words that leave a number alone", "5", "The answer is just 5.", "The answer is only 5", "The answer is 5 as expected.", "The answer is: 5</answer>", r"The answer is \(5\) apples.", "There are 5 eggs left.", "The answer is $5$ apples left.", "5 apples remaining")
apart("what is left, and a direction", "5", "5 steps left", "5 left", "5 tens")
unknown("one choice of two", r"$\boxed{B}$ or C")
same(
    "words around a box that neither doubt nor deny it",
    "90",
    r"So we know that the answer is \boxed{90}.",
    r"This holds if and only if $x = \boxed{90}$.",
    r"There are \boxed{90} ways with no two adjacent.",
    "\\boxed{90}\n\nNo other solutions exist.",
    "\\boxed{90}\n\nNo mistakes were found.",
)
unknown("a box that a short sentence takes back", r"\boxed{90}. No, it is not.", r"\boxed{90}. No.", r"\boxed{90}. No that is wrong.", r"\boxed{90} is no solution.", r"I don't know if it is \boxed{90}")
unknown("a formula before words that scale it", r"The answer is \(5\) tens.")

# What listed boxes are called
apart("what listed boxes count", r"\boxed{3} apples and \boxed{5} oranges", r"\boxed{5} apples and \boxed{3} oranges", r"\boxed{3} apples and \boxed{5} pears")
same("what listed boxes count may be left out", "3, 5", r"\boxed{3} apples and \boxed{5} oranges.", r"\boxed{3} red apples and \boxed{5} apples in the basket", r"\boxed{3} apples and \boxed{5} apples")
same("what listed boxes count, in any order", r"\boxed{3} apples and \boxed{5} oranges", r"\boxed{5} oranges and \boxed{3} apples", r"\boxed{3} apples, $\boxed{5}$ oranges")
apart("the first of three boxes that count", r"\boxed{2} apples, \boxed{4} pears and \boxed{5} plums", r"\boxed{3} apples, \boxed{4} pears and \boxed{5} plums")
apart("what listed boxes are for", r"\boxed{3} \text{ for part (a) and } \boxed{5}", r"\boxed{5} \text{ for part (a) and } \boxed{3}", r"\boxed{3} for Tom and \boxed{5} for Ann", r"\boxed{5} for Tom and \boxed{3} for Ann")
same("what listed boxes are for may be left out", "3, 5", r"\boxed{3} \text{ for part (a) and } \boxed{5}", r"\boxed{3} for part (a) and \boxed{5} for part (b).", r"\boxed{3} for Tom and \boxed{5} for Ann")
unknown("words between listed boxes that are no name", r"\boxed{3} in January and \boxed{5} in February.")

# Words around a figure
same("a unit in brackets", "$5", "5 (in dollars)", "The answer is 5 (in dollars).", "5")
apart("a unit in brackets", "5 (in dollars)", "5 (in cents)", "5 (in total)")
same("how many more", "$5", "5 more dollars", "Therefore, he needs 5 more dollars.", "5")
apart("how many more, and more than a number", "5", "5 more", "5 or more", "5 more than x", "5 more apples than pears")
same("a title and a dash before a box", "90", r"Result - \boxed{90}", r"**Final answer** - \boxed{90}")
unknown("a difference that a box is a part of", r"x - \boxed{90}", r"revenue - \boxed{90}")
same("what an answer must be", "5", "It is odd, and so on.\nThus the answer must be 5. Good", "It is odd, and so on.\nI think that the answer should be $5$, since 2 + 3 = 5.")
same("a time in a sentence", "12:30 pm", "The train arrives at 12:30 pm.", "We add all of the hours, one by one, and the minutes.\nTherefore, the train arrives at 12:30 P.M.")
apart("times with more said of them", "3:30 pm", "3:30 pm EST", "3:30 pm PST", "The train does not arrive at 3:30 pm.", "The train arrives at around 3:30 pm.", "The train arrives at 3:30 pm EST.")
same("what a conclusion begins with", "12", "First, 5. Then 7 more.\n\nOverall, they have 12 apples.", "First, 5. Then 7 more.\n\nSo the total is 12.", "First, 5. Then 7 more.\nTotal: 12")

# What is said behind a box
unknown(
    "a box that another number contradicts",
    r"\boxed{5}. The true value is 6.",
    r"$\boxed{5}$. The correct value is $6$.",
    r"\boxed{5}, but it should be 6.",
    r"\boxed{5}. So it is 6.",
    r"\boxed{5}. I meant 6.",
    "\\boxed{5}\n\nThere is an error in the calculation above.",
    "\\boxed{5}\n\nOh no, I forgot to add 1.",
)
same(
    "reasons and checks behind a box that mention other numbers",
    "5",
    r"\boxed{5}. The correct value is 5.0.",
    r"\boxed{5}. Check: 2 + 4 = 6, and it is 6.",
    r"\boxed{5}. He bought 6 apples and ate 1.",
    r"\boxed{5}. The total number of fruits is 12.",
    r"\boxed{5}. The sum of 2 and 4 is 6.",
    r"\boxed{5}. This is because the first value is 6.",
    r"\boxed{5} since 6 is not prime.",
    r"\boxed{5}. Note that 0 is not a solution.",
    r"\boxed{5}. It is 1 less than 6.",
    "\\boxed{5}\n\nNo errors were found.",
)

# More responses as small models write them
same(
    "an answer and its calculation",
    "72",
    "Half of 48 is 24.\nTherefore, Natalia sold a total of 48 + 24 = 72 clips in April and May.",
    "Half of 48 is 24.\nSo in total she sold 48+24=72 clips.",
    "Answer: 72\n\n48 + 24 = 72",
    "The answer is 72. So 48 + 24 = 72 clips.",
    "72\n\nExplanation: 48 + 24 = 72",
    "48 plus 24 equals 72.",
)
unknown("a calculation that is changed, or goes on", "Half of 48 is 24.\nTherefore, she did not sell 48 + 24 = 72 clips.", "Half of 48 is 24.\nTherefore, it is about 48 + 24 = 72 clips.", "The answer is 48.\n\n48 + 24 = 72", "72\n\n48 and 24", "Half of 48 is 24.\nTherefore, 48 + 24 = 72 of 100 clips.")
same(
    "tags around an answer, and what is said before it",
    "72",
    "Half of 48 is 24.\n<answer>72</answer>",
    "Half of 48 is 24.\n<answer>\n72\n</answer>",
    "First I got 60, but the correct answer is 72.",
    "I thought that the answer is 60, but the answer is 72.",
    "The answer is 72.\n\n# Exercise 2\nWhat is 3 + 4? The answer is 7.",
)
unknown("a tag that is never closed, or holds nothing", "Half of 48 is 24.\n<answer>72", "Half of 48 is 24.\nI put it in <answer></answer> tags.")
same("yes before a sentence that says it again", "yes", "Yes, 7 is a prime number.", "**Yes**, it is prime.", "Yes. 7 is prime because it has no divisors.", "We check all divisors.\n\nFinal answer: Yes, 7 is prime.")
same("no before a sentence that says it again", "no", "No, 9 is not a prime number.", "No, because 9 = 3 * 3.", "No, it isn't prime since 9 = 3 * 3.")
apart("no before another answer", "no", "No, the remainder is 5", "No, the answer is Paris", "No, 5 apples")
same("a time at the end of a response", "7:30 pm", "We add.\n\nThe movie ends at 7:30 pm.", "We add.\n\nTherefore, it will be 7:30 PM.", "We add.\n\n\\boxed{7:30 \\text{ PM}}")
unknown("no answer to a question", "We add.\n\nAnswer: ?", "We add.\n\nThe answer is either 72 or 73.", "We add.\n\nSo the answer is 72. Wait, that's not right. Let me recalculate: 48 + 12 = 60.")
same("signs that adorn an answer", "5", "The answer is 5 ✓", "**5** 🎉", "5 ✅", r"$\boxed{5}$ ✔️")
unknown("doubt behind an answer, and an equation that is no value", "We count.\n\nThe answer is 5 or 6.\n\nI am not sure.", "We count all of them, one by one, and then all of the others, which takes long.\n\nHence x^2 = 25 and so on.")
same(
    "reasons and farewells around a box",
    "5",
    "\\boxed{5} (because 10 - 5 = 5)",
    "\\boxed{5}\n\nIs there anything else I can help with?",
    "\\boxed{5}\n\nWe can verify this by adding: 5 + 5 = 10.",
    "\\boxed{5}\n\nThe other values, 6 and 7, are too large.",
    "\\boxed{5}\n\nSince 6 does not divide 10, it is not possible.",
    "\\boxed{5}\n\nSo, the answer is not 6 but 5.",
    "```\n\\boxed{5}\n```",
)
unknown(
    "sentences that conclude something else",
    "We count.\n\nTherefore, x is 5 times y.",
    "We count.\n\nThus, we multiply the result by 5.",
    "We count.\n\nSo 5 is too small and 7 is too large.",
    "We count.\n\nTherefore, 5 of the 10 apples are red and 3 are green.",
    "We count.\n\nThe answer is 5 for n = 2 and 6 for n = 3.",
    "We count.\n\n\\boxed{5}\n\nUnfortunately, this answer does not satisfy the equation.",
    "1. First, add 5.\n2. Then, add 7.\n3. Finally, subtract 2.",
)
unknown("a box that is a part of a number or a ratio", r"\boxed{5} thousand", r"$\boxed{5}$ dozen eggs", r"\boxed{2} and a half", r"The ratio is \boxed{2} to \boxed{3}.", r"$\boxed{2}:\boxed{3}$")
same("boxes beside words that leave them alone", "5", r"We simplify $\frac{10}{2}$ to $\boxed{5}$.", r"\boxed{5} times as many", r"\boxed{5} and a hat")

# Letters that may not commute, letters in bold, differentials
unknown(
    "letters that may be matrices, or members of a group",
    "PQP^{-1}",
    r"P \cdot D \cdot P^{-1}",
    "A^{-1}B",
    "B^{-1}A^{-1}",
    "AB-BA",
    "A(B+C)A^{-1}",
    "B^TA^T",
    r"A A^\top",
    "aba^{-1}",
    r"\mathbf{u}\mathbf{v}^T",
    "X = PQP^{-1}",
    "2x + yxy",
)
same("letters that are numbers commute", "2AB", "2BA", r"2A \cdot B")
same("a power of a capital letter", "P^2Q", "QP^2", r"P \cdot Q \cdot P")
same("products of lengths", r"AB \cdot BC \cdot CA", r"CA \cdot AB \cdot BC")
same("a volume", r"V = \pi r^2 h", r"\pi h r^2")
same("dimensions", "MLT^{-2}", "LMT^{-2}")
same("negative powers of small letters", "x^{-1}y^{-1}", r"\frac{1}{xy}", "y^{-1}x^{-1}")
apart("a unit vector and the imaginary unit", r"\mathbf{i}", "i", r"\mathbf{j}")
apart("vectors and numbers", r"3\mathbf{i}+4\mathbf{j}", "3i+4j", r"3\mathbf{j}+4\mathbf{i}", r"3\mathbf{i}-4\mathbf{j}")
apart("a letter in bold is another one", r"\mathbf{x}+1", "x+1")
same("vectors in bold or with an arrow", r"3\mathbf{i}+4\mathbf{j}", r"4\mathbf{j}+3\mathbf{i}", r"3\vec{i}+4\vec{j}", r"3\boldsymbol{i}+4\bm{j}")
same("a choice in bold", "B", r"\mathbf{B}", r"\mathbf{(B)}")
same("what is only set in bold", "x+1", r"\mathbf{x+1}")
apart("a differential is no product", "x dx", "x^2 d", "x d", "x dy")
same("differentials", r"2x\,dx", r"2x\,\mathrm{d}x", r"dx \cdot 2x", "2x dx")
same("an element of area", r"r\,dr\,d\theta", r"r\,d\theta\,dr")
same("a difference that is called d", "a+(n-1)d", "a+nd-d", "dn+a-d")

# Amounts, roundings with units and in sets, marks of times
same("dollars of the United States", "$5", "5 US dollars", "5 U.S. dollars", r"5\text{ US dollars}", "5")
apart("dollars of another country", "$5", "5 Canadian dollars", "5 US states")
same("an amount in units that stand in a row", "150 minutes", "2 hours 30 minutes", r"2\text{ hours }30\text{ minutes}", "2.5 hours")
same("feet and inches", "66 inches", "5 feet 6 inches", "5 ft 6 in", r"5\text{ ft }6\text{ in}")
apart("amounts in units that stand in a row", "2 hours 30 minutes", "2 hours 3 minutes", "2 hours", "30 minutes", "150", "230 minutes")
unknown("one amount in a row, or two", "2 hours 90 minutes", "30 minutes 2 hours", "5 cm 3 kg", "5 cm 3 cm")
same("a comma for a point before a unit", "1.5 cm", "1,50 cm", "1.50", "15 mm")
same("a price with a comma and its figure", "12.50", "12,50 €", "12,50 euros")
apart("a comma before a unit, and a list", "1.5 cm", "1, 50 cm", "150 cm", "1,50 kg")
same("a rounding with a unit", "1/3 cm", "0.3333 cm", "0.33333 cm", r"\frac13\text{ cm}")
same("a rounding in another unit", "100/3 cm", "0.3333 meters", r"\frac13\text{ m}")
apart("no roundings of a length", "1/3 cm", "0.3334 cm", "0.333 cm", "0.3333 kg", "0.3333 meters")
same("a rounded percentage", "1/3", "33.3333%", r"\frac{100}{3}\%")
apart("no roundings of a share", "1/3", "33.3334%", "33.33%")
same("roundings in a set", r"\{\frac13, 1\}", r"\{0.3333, 1\}", r"\{1, 0.33333\}")
same("roundings in a list", r"3, \sqrt2", "1.4142, 3", r"3 \text{ and } 1.4142")
same("roundings of two signs", r"\pm\sqrt2", r"\pm 1.4142", "1.4142, -1.4142")
apart("roundings of other members, or as many of them", "1/3, 1/3, 1", "0.3333, 1, 1", "0.3333, 0.33333", "0.3333, 1", "1/3, 3")
same("roundings in a matrix", r"\begin{pmatrix}1/3&-2/3\\1&2\end{pmatrix}", r"\left[\begin{array}{cc}0.3333 & -0.6667\\1&2\end{array}\right]")
apart("roundings in other places of a matrix", r"\begin{pmatrix}1/3\\1\end{pmatrix}", r"\begin{pmatrix}1\\0.3333\end{pmatrix}", r"\begin{pmatrix}0.3334\\1\end{pmatrix}")
same("roundings of named values", "x = 1/3, y = 2", "y = 2, x = 0.3333")
apart("roundings of values with other names", "x = 1/3, y = 2", "x = 2, y = 0.3333", "x = 1/3, z = 2")
same("a time without its mark", "3:30 pm", "3:30", "15:30")
same("a time without its mark in the morning", "3:30 am", "3:30")
same("half past twelve", "12:30 pm", "12:30")
same("noon without its mark", "noon", "12:00")
apart("a time by the clock of 24 hours has no mark to be left out", "15:30", "3:30")
apart("half past twelve by itself is not in the night", "12:30 am", "12:30")
apart("midnight and a time without a mark", "midnight", "12:00")

# Readings of one spelling
apart("values of one letter or of another", "x=1, y=2", "x=1 or y=2", "x=1")
same("solutions of two letters", "x=2, y=3 or x=3, y=2", "x=3, y=2 or x=2, y=3", "x=2, y=3; x=3, y=2")
apart("solutions of two letters", "x=2, y=3 or x=3, y=2", "x=2, y=2 or x=3, y=3", "x=2, y=3", "x=2 or y=3")
unknown("a product with pi, or the number of primes", r"\pi(x)", r"2\pi(n)")
same("pi before a bracket", r"2\pi(r+1)", r"2\pi r+2\pi", r"\pi(2r+2)")
same("kilowatt-hours", "1 kWh", "3600 kJ", "3600000 joules")
same("a letter before itself", "x(-x)", "-x^2")
same("one of two letters", "x=1 or y=2", "y=2 or x=1")
unknown("a tuple of two numbers, or of three", "(1,5;2)")
same("fractions and binomials in TeX", r"\frac{3}{4}", r"{3 \over 4}", r"3 \over 4", r"\frac{{6 \choose 1}}{8}")
same("how far a line goes", r"\frac{x+1}{x-1}+2", r"{x+1 \over x-1}+2")
same("an upright unit", "3 meters", r"3\,\mathrm{m}", r"3~\mathrm{m}")
apart("an upright letter and its value", r"3\,\mathrm{m}", "3x", r"3\,\mathrm{s}")
apart("hexadecimal digits that are letters", "BCD_{16}", "CBD_{16}", "255", "BC_{16}")
same("letters that are digits", "FF_{16}", "0FF_{16}", r"FF_{\text{sixteen}}")
same("codes of currencies before an amount", "$5", "USD 5", "5 USD", "5")
apart("codes of other currencies", "USD 5", "EUR 5", "GBP 5")
same("an absolute value behind a factor", "2|x-1|", "2|1-x|", r"2\cdot|x-1|", r"2\left|x-1\right|")
apart("a factor before an absolute value", "x|y|", "|xy|", "xy")
same("absolute values in a row", "|x||y|", "|xy|")
unknown("where an absolute value ends", "|x|y|z|")
same("a function and a factor in brackets", "f(3)(x+1)", "(x+1)f(3)", "xf(3)+f(3)")
apart("a function of a number is no product", "f(3)(x+1)", "3f(x+1)", "f(3x+3)")
same("letters that can only be a unit", r"5\text{ g/cm}^3", "5 g/cm^3", "5 grams per cubic centimeter", "5")
same("money for an hour", "$12 per hour", "$12/hour", r"\$12/\text{hour}")

# Responses: what stands around an answer
others("a unit behind a box", "5 cm", r"\boxed{5} m", r"$\boxed{5}$ kg", r"The length is \boxed{5} meters.", r"\boxed{5}\text{ m}", r"\boxed{5}\,\mathrm{m}", r"$\boxed{x = 5}$ m", r"\boxed{5}^\circ")
same("a unit behind a box, or none", "5 cm", r"\boxed{5} cm", r"$\boxed{5}$ centimeters.", r"\boxed{50}\text{ mm}", r"\boxed{5}", r"\boxed{5\text{ cm}} cm", r"The height is $\boxed{5}$ (in cm)")
same("what is counted behind a box adds nothing", "5", r"\boxed{5} apples", r"\boxed{5}\text{ m}", r"\boxed{5} in total", r"\boxed{5} more apples")
others("a power of a unit behind a box", "12 cm^2", r"$\boxed{12}$ cm$^3$", r"\boxed{12}\text{ cm}^3", "\\boxed{12} cm\u00b3", r"\boxed{12} cubic centimeters")
same("a square of a unit behind a box", "12 cm^2", r"$\boxed{12}$ cm$^2$", r"\boxed{12} square centimeters", "\\boxed{12} cm\u00b2")
same("a unit of several words behind a box", "9.8 m/s^2", r"\boxed{9.8} meters per second squared", r"\boxed{9.8}\text{ m/s}^2", r"\boxed{9.8} m/s\(^2\)")
others("a currency around a box", "$5", r"\boxed{5} euros", r"\boxed{5} cents", "\u20ac\\boxed{5}", r"\boxed{5}\%")
same("a currency around a box", "$5", r"\boxed{5} dollars", r"\$\boxed{5}", r"$\$\boxed{5}$", r"It costs $\boxed{5}.", r"\boxed{500} cents")
others("a time behind a box", "5 hours", r"\boxed{5} minutes", r"\boxed{5} days a week")
same("a time behind a box", "5 hours", r"\boxed{300} minutes", r"\boxed{5} hours of work")
unknown("an amount that goes on behind a box", r"\boxed{2} hours and 30 minutes", r"\boxed{5} feet 6 inches")
others("an angle behind a box", r"30^\circ", r"\boxed{30}\text{ radians}", r"\boxed{30}\%", r"\boxed{30}^\circ\text{C}")
same("an angle behind a box", r"30^\circ", r"\boxed{30}^\circ", r"\boxed{30} degrees", r"\boxed{30}")
same("a percentage behind a box", "28%", r"\boxed{28}\%", r"\boxed{28} percent of the students", r"$\boxed{28}$%")
others("how many digits a number has is not the number", "5", "The answer must be 5 digits long.", "The answer must be 5 digits.", "The answer should be 5 digits long.", "The answer is 5 digits long.", "5 decimal places", "The answer must have 5 digits")
same("what an answer must be, if it is a formula", "5", "The answer must be 5.", "So the answer should be $5$")
unknown("a cross denies what is before it", "5 \u274c", "5 \u2717", "\\boxed{5} \u274c", "The answer is 5 \u2718", "5 \u2795", "5 \u2776")
same("a check mark adorns", "5", "5 \u2705", "5 \u2713", "5 \u2714\ufe0f", "\\boxed{5} \u2705", "5 \U0001f389")
others("boxes with different names are a list", "4", r"$$\boxed{x=3} \quad \boxed{y=4}$$", r"$\boxed{x = 3}$ $\boxed{y = 4}$", r"\boxed{x=3} \\ \boxed{y=4}", "\\boxed{x = 3}\n\\boxed{y = 4}", "$x = \\boxed{3}$\n$y = \\boxed{4}$")
same("boxes with different names are a list", "x=3, y=4", r"$$\boxed{x=3} \quad \boxed{y=4}$$", "\\boxed{x = 3}\n\n\\boxed{y = 4}", "$x = \\boxed{3}$\n$y = \\boxed{4}$")
same("boxes of one name, or of none, are said again", "4", "\\boxed{4}\n\\boxed{4}", "$x = \\boxed{4}$\n$x = \\boxed{4}$", "\\boxed{3} \\boxed{4}")

# Formulas side by side, where arguments of functions end, products of vectors, conditions that exclude each other
same("equations side by side", "x=3, y=4", r"x=3 \\ y=4", r"x=3\\y=4", r"x=3\\[2pt] y=4", r"x=3 \quad y=4", "x=3\ny=4", "$x=3$ $y=4$", "x=3&y=4", r"x=3 \quad \text{and} \quad y=4")
apart("equations side by side are no chain", "4", r"x=3 \\ y=4", r"AB=3\quad CD=4", r"a_1=3\quad a_2=4", r"\text{width}=3\quad\text{length}=4", r"f(1)=3\quad f(2)=4", r"x=-1\\ y=4")
apart("two values of one letter", "x=2", r"x=1\\x=2", r"x=3\quad x=2")
unknown("a chain, or equations side by side", r"x=3\ y=4", "x=3~y=4", "x = 3 y = 4", "x=1 x=2", r"x=3\quad 4")
same("a chain over several lines", "x = 8", "x = 3 + 5\n= 8", "x = 5 +\n3", r"x = 3 + 5 \\ = 8")
same("a chain with units", "5 cm", r"x = 5\ \text{cm} = 0.05\ \text{m}")
same("a unit behind a wide space", "5 cm", r"5 \quad \text{cm}")
apart("numbers side by side are no sum, product or mixed number", "-8", r"-5\quad-3", "7/3", r"2\quad\frac13")
apart("formulas side by side are no product", "6", r"\sqrt4\quad\sqrt9", r"(2)\quad(2)")
apart("letters side by side are no product", "xy", "x\ny", r"2x\quad y")
unknown("a difference, or two numbers", r"-5\ -3", r"x\ -1")
same("rows of a matrix that are set apart", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\[4pt] 3 \quad & 4 \end{pmatrix}")
same("a factor behind a printed space", r"x^2\cos x", r"\cos x\, x^2", r"\cos x\ x^2")
same("a factor behind a logarithm", r"t\ln 2", r"\ln 2\, t", r"\ln(2)t")
same("an argument with a number before it", r"\sin(2x)", r"\sin 2x", r"\sin(2 \cdot x)")
same("an argument with pi before it", r"\cos(2\pi t)", r"\cos 2\pi t")
apart("a factor in an argument or behind it", r"\sin(xe^{2x})", r"\sin x\,e^{2x}", r"\ln(2t)", r"\ln 2\,t", r"\sin(30^\circ x)", r"\sin 30^\circ x", r"\sin x\cos(yz)", r"\sin x\cos y\,z")
unknown("where an argument ends", r"\sin x e^x", r"\sin xe^x", r"\sin x\frac12", r"\sin x \pi", r"\cos 2\pi\,t")
apart("a logarithm and what stands beside it", r"\log(xy)", r"\log x\quad y")
unknown("products of vectors", r"\vec{a}\times\vec{b}", r"\mathbf{a}\times\mathbf{b}", r"\vec a \times \vec b", r"(\vec a\cdot\vec b)\vec c", r"\vec{a}(\vec{b}\cdot\vec{c})")
same("a scalar product", r"\vec{a}\cdot\vec{b}", r"\vec{b}\cdot\vec{a}")
unknown("conditions that exclude each other", "x<1 and x>2", "x=1 and x>2")
same("conditions that only go together", "(1,3)", "x>1, x<3", "x>1 and x<3")
unknown("conditions of which one is in the other", "x>1, x>3")

# False differents: sets of numbers, factorials, bars, equations with two sides
same("the real numbers", r"\mathbb{R}", r"\mathbb R", r"\R", r"x\in\mathbb R", r"x \in \R", r"\Bbb R", "all real numbers", r"\text{all real } x", "any real number", r"\text{all real values of } x", r"(-\infty,\infty)", "the set of all real numbers")
apart("sets of numbers", r"\mathbb R", r"\mathbb Z", r"\mathbb{Q}", "all natural numbers", r"\R\setminus\{2\}", "(0,\\infty)", "real")
same("sets of numbers", "k\\in\\mathbb{Z}", r"k\in\mathbb Z", r"k\in\Z", "all integers")
apart("one of a set", "all integers", "integer", "the integer", "an integer")
unknown("a space over numbers", r"\mathbb{R}^3", r"\mathbb{Z}^+", r"\mathbb{R}^2")
same("a factorial ends its operand", "10", r"\frac{5!}{2!3!}", r"\frac{5!}{3!\,2!}", r"\frac{5!}{3! 2!}", "5!/(2!3!)")
same("a product of factorials", "12", "2!3!", r"2!\cdot 3!")
unknown("a number behind a factorial", "2!3", "5!3^2")
same("bars in several terms", "|x|+2|y|", "2|y|+|x|", r"\lvert x\rvert+2\lvert y\rvert", r"|x|+2\cdot|y|")
apart("bars in several terms", "|x|+2|y|", "|x|-2|y|", "2|x|+|y|", "|x+2y|", "|x|+|y|", "|x|+2y")
same("bars behind their letter", "x|x|+y|y|", "y|y|+x|x|")
unknown("bars that may go around other bars", "|x-1|y|z|", "|x|(y+1)|z|", "|2|x|-1|")
same("an equation has two sides", "AB=CD", "CD=AB", r"AB = CD")
same("an equation has two sides", "PV=nRT", "nRT=PV", "PV-nRT=0")
same("an equation has two sides", "V=IR", "IR=V", "V=RI")
same("an equation has two sides", "AB=2CD", "2CD=AB")
same("an equation has two sides", "f(x)=x^2", "x^2=f(x)", "x^2")
same("an equation has two sides", "a_n=2n+1", "2n+1=a_n", "2n+1")
same("functions by their names", "f(x)=2x, g(x)=3x", "g(x)=3x, f(x)=2x", "2x, 3x")
apart("an equation has two sides", "AB=CD", "AC=BD", "AB=2CD", "2AB=CD")
apart("a function, and another one", "f(x)=x^2", "g(x)=x^2", "f(x)=2x^2", "f(x)=x", "f(y)=y^2")
apart("a length by its name", "AB=5", "CD=5", "AB=6")
same("equations of functions", "f(x)=-f(-x)", "f(x)+f(-x)=0")
others("what a side is in an equation is left out before it only", "x+y", "x+y=z")
same("binomials of letters", r"\binom{n}{2}", r"\frac{n(n-1)}{2}", r"{n \choose 2}", r"\binom{n}{n-2}", r"\frac{n!}{2!(n-2)!}", r"\frac{n^2-n}{2}")
same("binomials of letters", r"\binom{n}{k}", r"\frac{n!}{k!(n-k)!}", r"\binom{n}{n-k}", r"\binom{n-1}{k}+\binom{n-1}{k-1}", r"\frac{n}{k}\binom{n-1}{k-1}")
same("a binomial of one letter", r"\binom{10}{k}", r"\frac{10!}{k!(10-k)!}", r"\binom{10}{10-k}")
same("factorials of letters", "n+1", r"\frac{(n+1)!}{n!}", r"\frac{(n+2)!}{(n+2)\,n!}")
same("numbers of Catalan", r"\frac{1}{n+1}\binom{2n}{n}", r"\frac{(2n)!}{n!(n+1)!}", r"\binom{2n}{n}-\binom{2n}{n+1}")
same("factorials under a root", r"\sqrt{n!}", r"\sqrt{n(n-1)!}")
same("binomials that are numbers", "1", r"\binom{n}{0}", r"\binom{n}{n}")
apart("factorials of letters", "n!", "(n-1)!", "(n+1)!", "m!", "2n!", "(2n)!", "n!^2", "(n!)!", "n")
apart("binomials of letters", r"\binom{n}{2}", r"\binom{n}{3}", r"\binom{m}{2}", r"\binom{2n}{2}", r"\binom{n+1}{2}", r"\binom{2}{n}", r"\frac{n^2}{2}")
same("a number more or less", "5, -1", r"2\pm3", "2+/-3", r"2 \pm 3", "\\{5,-1\\}", "-1 or 5")
apart("a number more or less", r"2\pm3", r"3\pm2", r"2\pm 4", "5", "(-1, 5)")
unknown("a range is no difference", "2-3", "2--3")
same("several values are excluded", r"x\neq1,2", r"x\ne 1 \text{ and } x\ne 2", r"x \neq 2, 1", r"(-\infty,1)\cup(1,2)\cup(2,\infty)", r"x\neq 1 \text{ and } 2", r"\mathbb{R}\setminus\{1,2\}")
apart("several values are excluded", r"x\neq1,2", r"x\neq 1", r"x\neq 1,3", "x=1,2", r"y\neq 1,2")
same("amounts with symbols", "90 minutes", "1 h 30 min", "1.5 hours", "1 h 30 min.", "1 hr 30 min", "1 hour and 30 minutes")
same("amounts with symbols", "320 cm", "3 m 20 cm")
apart("amounts with symbols", "1 h 30 min", "1 h 20 min", "30 min", "1 h", r"1.3\text{ h}")
unknown("amounts of two things", "5 s 3 g", "1 h 30 m")
same("a fraction of units", "60 km/h", r"60\frac{\text{km}}{\text{h}}", r"60\,\frac{\mathrm{km}}{\mathrm{h}}", r"60\ \frac{km}{h}")
apart("a fraction of units", r"60\frac{\text{km}}{\text{h}}", r"60\frac{\text{mi}}{\text{h}}", r"60\text{ km}")
same("another asterisk", "6", "2\u22173")
same("numbers in words", "25", "twenty-five", "twenty five", r"\text{twenty-five}", "Twenty-five")
same("numbers in words", "101", "one hundred one", "one hundred and one")
same("numbers in words", "10000", "ten thousand", "10 thousand")
same("fractions in words", "3/4", "three quarters", "three-fourths", "three fourths", "0.75")
same("fractions in words", "1/2", "one half", "one-half", "a half")
same("a mixed number in words", "5/2", "two and a half", "two and one half")
apart("numbers in words", "twenty-five", "fifty-two", "twenty", "five", "2005", "205")
apart("an ordinal is no fraction", "1/3", "third", "3rd")
unknown("several numbers in words", "two three", "two and three", "nineteen eighty-four", "twenty ten")
same("bases in words, and in a text", "204_5", "204 base 5", "204 (base 5)", r"204_\text{five}", r"204_{\text{5}}", "204 base five", r"204 \text{ (base 5)}")
same("bases in words, and in a text", "1A_{16}", r"\text{1A}_{16}", r"1A_{\text{sixteen}}", "1A base 16")
same("bases in words, and in a text", "FF_{16}", r"\text{FF}_{16}")
apart("bases in words, and in a text", "204 base 5", "204", "204 base 6", "54", "203 base 5")
same("a system of equations", "x=3, y=4", r"\begin{cases}x=3\\y=4\end{cases}", r"\begin{aligned} x &= 3 \\ y &= 4 \end{aligned}", r"\begin{align*}x&=3\\y&=4\end{align*}", r"\begin{gathered}x=3\\y=4\end{gathered}", "(3,4)")
same("a chain over several lines", "8", r"\begin{aligned}x&=3+5\\&=8\end{aligned}", r"\begin{align*} 3+5 \\ = 8 \end{align*}")
apart("a system of equations", "4", r"\begin{cases}x=3\\y=4\end{cases}", r"\begin{cases}x=4\\y=3\end{cases}")
unknown("a function in pieces", r"f(x)=\begin{cases}x&x>0\\-x&x\le0\end{cases}", r"\begin{cases}1&x=0\\2&x=1\end{cases}", r"\begin{cases} 1 & \text{if } x>0 \\ 0 & \text{otherwise}\end{cases}", r"f(x)=\begin{cases} x^2 & \text{for } x \ge 0 \\ 0 & \text{else}\end{cases}")
same("d is a letter as others", "2rd", "2dr", r"2d\cdot r")
same("d is a letter as others", "ax^3+bx^2+cx+d", "d+cx+bx^2+ax^3")
same("d is a letter as others", "ax^4+bx^3+cx^2+xd+e", "ax^4+bx^3+cx^2+dx+e", "ax^4 + bx^3 + cx^2 + dx + e")
same("d is a letter as others", r"\sqrt{2sd}", r"\sqrt{2ds}")
same("words of English that are products", "ax+by+cz+dw", "dw+cz+by+ax")
same("words of English that are products", "ax + by + c = 0", "c+ax+by=0", "by+ax+c=0")
same("a differential is set off", r"2x\,dx", "2x dx", r"2x\,\mathrm{d}x", r"2x \mathrm{d}x", r"dx\cdot 2x")
same("a differential above a line", r"\frac{dx}{x}", r"\frac{1}{x}\,dx", r"\frac1x dx")
same("differentials of two letters", "y dx + x dy", r"x\,dy + y\,dx")
same("an equation of differentials", "du = 2x dx", r"du=2x\,dx", r"2x\,dx=du")
apart("differentials", r"\frac{dx}{x}", r"\frac{dt}{t}", "d", r"\frac{dx}{x^2}", "y dx + x dy", "2x dy", r"2xyd")
apart("a differential alone", "dx", "xd", "dy")
unknown("a differential, or a product with d", "2xdx", r"e^xdx", r"\frac{1}{x}dx", r"\frac{2dx}{x}", r"(2dx)/x")
same("numbers that are too long to be computed", "2024^{2024}", "2024^{2024}", r"2024\cdot 2024^{2023}")
same("numbers that are too long to be computed", "2^{5000}-1", "2^{5000}-1", "-1+4^{2500}", r"\frac{2^{5001}-2}{2}")
same("numbers that are too long to be computed", "2^{-5000}", r"\frac{1}{2^{5000}}", r"\left(\frac12\right)^{5000}")
same("numbers that are too long to be computed", "1000!", r"1000\cdot 999!", "x = 1000!")
same("numbers that are too long to be computed", "2^{2^{100}}", "4^{2^{99}}", "(-2)^{2^{100}}")
apart("numbers that are too long to be computed", "2^{5000}", "2^{5000}-1", "2^{5000}+1", "-2^{5000}", "2^{5001}", "2^{-5000}", "3^{5000}", "10^{1505}", "0", "1")
apart("factorials that are too long to be computed", "1000!", "999!", "1001!", "-1000!")
unknown("long numbers that may cancel", "2^{5000}-2^{5000}", "2^{5000}/2^{4990}", "2^{5000}+2^{5000}")
same("arguments without braces", r"\frac{x}{y}", r"\frac xy", "x/y")
same("arguments without braces", r"\binom{n}{k}", r"\binom nk")
same("arguments without braces", r"y\sqrt{x}", r"\sqrt xy", r"\sqrt{x}\,y")
same("arguments without braces", r"\frac{xz}{y}", r"\frac xyz", r"\frac{x}{y}z")
same("an x for times", "1500", "1.5 x 10^3", "1.5x10^3", "15 x 10^2")
same("a ratio in two spellings", "a/b=2/3", r"\frac ab=\frac23", r"\frac{a}{b}=\frac{2}{3}", "2/3")
apart("a ratio in two spellings", r"\frac{a}{b}=\frac{2}{3}", "b/a=2/3", "a/b=3/2", "a/c=2/3")
others("a ratio with a factor is no name", "5", r"\frac{x}{y}z=5")
same("a form that graders get wrong", r"\frac ab=\frac23", r"a/b=2/3")
same("a form that graders get wrong", r"z=\frac yx", r"\frac{y}{x}=z")
same("a form that graders get wrong", r"\frac xy", r"x/y")
others("a form that graders get wrong", r"(1,2)", r"[1,2]")
others("a form that graders get wrong", r"(1,2]", r"[1,2)")
same("a form that graders get wrong", r"(1,2]", r"1<x\le2")
same("a form that graders get wrong", r"50\%", r"0.5")
same("a form that graders get wrong", r"50\%", r"50")
same("a form that graders get wrong", r"12\frac{1}{2}\%", r"12.5\%")
others("a form that graders get wrong", r"1\frac12", r"\frac{11}{2}")
same("a form that graders get wrong", r"1,234,567", r"1234567")
others("a form that graders get wrong", r"12,345", r"12.345")
same("a form that graders get wrong", r"1{,}5", r"1.5")
same("a form that graders get wrong", r"\frac12", r"0.5")
same("a form that graders get wrong", r"\frac1{12}", r"1/12")
same("a form that graders get wrong", r"\frac{1}2", r"1/2")
same("a form that graders get wrong", r"\sqrt2", r"\sqrt{2}")
same("a form that graders get wrong", r"2\sqrt[3]{2}", r"\sqrt[3]{16}")
same("a form that graders get wrong", r"1\pm\sqrt2", r"\{1-\sqrt2,1+\sqrt2\}")
same("a form that graders get wrong", r"x=\pm2", r"x=2 \text{ or } x=-2")
same("a form that graders get wrong", r"x=\pm 2", r"2, -2")
same("a form that graders get wrong", r"\{1,2\}", r"\{2,1\}")
others("a form that graders get wrong", r"(1,2)", r"(2,1)")
same("a form that graders get wrong", r"1.5\times10^{-3}", r"0.0015")
same("a form that graders get wrong", r"1.5\times10^{3}", r"1500")
same("a form that graders get wrong", r"1.5 x 10^3", r"1500")
others("a form that graders get wrong", r"1011_2", r"1011")
others("a form that graders get wrong", r"1011_2", r"11")
same("a form that graders get wrong", r"\log_2 8", r"3")
same("a form that graders get wrong", r"\log_{10}100", r"2")
same("a form that graders get wrong", r"\ln 8", r"3\ln2")
same("a form that graders get wrong", r"\sin 30^\circ", r"1/2")
same("a form that graders get wrong", r"\tan 45^\circ", r"1")
others("a form that graders get wrong", r"\cos 60", r"1/2")
same("a form that graders get wrong", r"0.\overline{36}", r"4/11")
same("a form that graders get wrong", r"0.3\overline{6}", r"11/30")
others("a form that graders get wrong", r"0.\overline{3}", r"0.3")
same("a form that graders get wrong", r"y=2x+3", r"2x+3")
same("a form that graders get wrong", r"y=2x+3", r"y-3=2x")
same("a form that graders get wrong", r"y=2x+3", r"2x-y+3=0")
same("a form that graders get wrong", r"x+y=5", r"5=x+y")
same("a form that graders get wrong", r"x>5", r"5<x")
others("a form that graders get wrong", r"x\ge5", r"x>5")
same("a form that graders get wrong", r"-1<x<3", r"3>x>-1")
same("a form that graders get wrong", r"-1<x<3", r"x\in(-1,3)")
same("a form that graders get wrong", r"(-\infty,0)\cup(0,\infty)", r"(0,\infty)\cup(-\infty,0)")
same("a form that graders get wrong", r"(-\infty,0)\cup(0,\infty)", r"x\ne0")
same("a form that graders get wrong", r"\begin{pmatrix}1\\2\end{pmatrix}", r"(1,2)")
others("a form that graders get wrong", r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}")
same("a form that graders get wrong", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}")
same("a form that graders get wrong", r"\frac{\sqrt3}{3}", r"\frac{1}{\sqrt3}")
others("a form that graders get wrong", r"5\text{ cm}^2", r"5\text{ cm}")
same("a form that graders get wrong", r"\$1,000", r"1000 dollars")
same("a form that graders get wrong", r"90^\circ", r"90")
others("a form that graders get wrong", r"90^\circ", r"\frac{\pi}{2}")
same("a form that graders get wrong", r"3+4i", r"4i+3")
others("a form that graders get wrong", r"3-4i", r"3+4i")
same("a form that graders get wrong", r"e^{i\pi}", r"-1")
same("a form that graders get wrong", r"x^2+2x+1", r"(x+1)^2")
same("a form that graders get wrong", r"(x+1)^2", r"(x+1)(x+1)")
same("a form that graders get wrong", r"ax - by = c", r"c = ax-by")
same("a form that graders get wrong", r"a^2-b^2", r"(a-b)(a+b)")
same("a form that graders get wrong", r"3 \frac{1}{4}", r"3.25")
same("a form that graders get wrong", r"\frac{3}{4}x", r"3x/4")
same("a form that graders get wrong", r"2^{-1}", r"0.5")
same("a form that graders get wrong", r"8^{2/3}", r"4")
same("a form that graders get wrong", r"\lfloor 3.7\rfloor", r"3")
same("a form that graders get wrong", r"|{-3}|", r"3")
same("a form that graders get wrong", r"x\in\{1,2\}", r"x=1,2")
same("a form that graders get wrong", r"1 or 2", r"1 and 2")
same("a form that graders get wrong", r"(1,2),(3,4)", r"(3,4),(1,2)")
same("a form that graders get wrong", r"[-1,1]", r"-1\le x\le 1")
same("a form that graders get wrong", r"\emptyset", r"\{\}")
same("a form that graders get wrong", r"1:2:3", r"2:4:6")
others("a form that graders get wrong", r"1/3", r"0.333")
same("a form that graders get wrong", r"\frac{2}{4}", r"\frac{1}{2}")
same("a form that graders get wrong", r"10^3", r"1000")
same("a form that graders get wrong", r"-\frac{1}{2}", r"\frac{-1}{2}")
same("a form that graders get wrong", r"\frac{1}{-2}", r"-0.5")
same("a form that graders get wrong", r"\sqrt{-4}", r"2i")
same("a form that graders get wrong", r"5\pi", r"5π")
same("a form that graders get wrong", r"5\pi", r"15.70796")
same("a form that graders get wrong", r"f^{-1}(x)=x/2", r"x/2")
same("a form that graders get wrong", r"x=1+2k", r"x=2k+1")
same("a form that graders get wrong", r"\text{east}", r"east")
same("a form that graders get wrong", r"C", r"\text{(C)}")
same("a form that graders get wrong", r"6,-6", r"\pm6")
others("a form that graders get wrong", r"(6,-6)", r"\pm6")
same("a form that graders get wrong", r"2\frac{1}{3}\text{ hours}", r"140 minutes")
same("a form that graders get wrong", r"x^{1/2}", r"\sqrt{x}")
same("a form that graders get wrong", r"\frac{x}{2}", r"0.5x")
same("a form that graders get wrong", r"1-\cos^2 x", r"\sin^2 x")
same("a form that graders get wrong", r"\sin^{-1}(1/2)", r"\frac{\pi}{6}")
same("a form that graders get wrong", r"\cot x", r"1/\tan x")
same("a form that graders get wrong", r"100000", r"10^5")
same("a form that graders get wrong", r"1e5", r"100000")
same("a form that graders get wrong", r".5", r"0.5")
same("a form that graders get wrong", r"-.5", r"-1/2")
same("a form that graders get wrong", r"7/2", r"3.5")
same("a form that graders get wrong", r"3 1/2", r"7/2")
others("a form that graders get wrong", r"-3 1/2", r"-5/2")
same("a form that graders get wrong", r"x < -2 \text{ or } x > 2", r"|x|>2")
same("a form that graders get wrong", r"\frac{a}{b}", r"a \div b")
same("a form that graders get wrong", r"a_1", r"a_{1}")
same("a form that graders get wrong", r"12\text{ km/h}", r"12 km per hour")
same("a form that graders get wrong", r"9{,}8", r"9.8")
same("a form that graders get wrong", r"1 000", r"1000")
# Blocks of code, values on several lines, labelled parts, mistakes that are found behind an answer
same("a number in a block of code", "5", "```\n5\n```", "We count.\n\n```text\n5\n```", "The answer is:\n\n```\n5\n```\nIt is done.", "Answer: ```5```", "```python\nprint(2 + 3)\n```\n\nOutput:\n```\n5\n```", "We count.\n\n```math\nx = 5\n```")
unknown(
    "a program, or one of several blocks",
    "```python\nx = 5\n```",
    "```\nx = 5\nprint(x)\n```",
    "```python\ndef f(x):\n    return x + 5\n```",
    "```\n5\n```\n```\n7\n```",
    "Step 1:\n```\n5\n```\nStep 2:\n```\n7\n```",
    "It is not:\n```\n5\n```",
)
same(
    "values of different names on lines of their own",
    "x=3, y=4",
    "The answer is x = 3\ny = 4",
    "The answer is:\n\n$x = 3$\n\n$y = 4$",
    "The answer is x = 3 and\ny = 4",
    "The answer is:\n- x = 3\n- y = 4",
    "**Answer:**\n\n* $x = 3$\n* $y = 4$",
    "Therefore, x = 3\ny = 4",
    "- $x = 3$\n- $y = 4$",
)
others("one of several values that stand below each other", "4", "The answer is x = 3\ny = 4", "The answer is:\n- x = 3\n- y = 4")
unknown("two values of one name", "The answer is x = 3\nx = 4", "The answer is 3\n4")
same("the mark of an item", "5", "The answer is:\n- $5$", "The answer is:\n\n* 5", "The answer is:\n- x = 5")
unknown("the mark of an item, or a sign", "The answer is:\n- 5")
same("how many digits there are", "5", "5 digits", r"\boxed{5 \text{ digits}}", "The answer is 5 digits.", "The number has 5 digits.")
same(
    "parts with labels",
    "Part (a): \\boxed{3}\nPart (b): \\boxed{5}",
    "3, 5",
    "(3, 5)",
    "**Part (a):** $\\boxed{3}$.\n\n**Part (b):** $\\boxed{5}$.",
    "1. \\boxed{3}\n2. \\boxed{5}",
    "(i) $\\boxed{3}$\n(ii) $\\boxed{5}$",
    r"(a) \boxed{3}, (b) \boxed{5}",
    r"a: \boxed{3}, b: \boxed{5}",
)
apart("the last part, or all of them", "5", "Part (a): \\boxed{3}\nPart (b): \\boxed{5}", "(a) \\boxed{5}\n(b) \\boxed{3}")
same("steps, methods and one part twice", "5", "Step 1: \\boxed{3}\nStep 2: \\boxed{5}", "Method 1: \\boxed{5}\nMethod 2: \\boxed{5}", "(a) \\boxed{5}\n(a) \\boxed{5}")
unknown(
    "a mistake that is found behind an answer",
    *(
        f"\\boxed{{5}}. {found}"
        for found in (
            "The previous answer contains an error",
            "The calculation above contains a mistake.",
            "Looking back, I made a mistake in step 2.",
            "It seems there was an error in my calculation.",
            "The provided answer is not correct.",
            "Therefore, the above solution is invalid.",
            "This contradicts the condition.",
            "It fails to satisfy the equation.",
            "Let me re-check the problem.",
            "It is clear that this is not right.",
        )
    ),
)
same(
    "mistakes of others, or none",
    "5",
    *(
        f"\\boxed{{5}}. {found}"
        for found in (
            "There is no error.",
            "We checked it without finding any mistakes.",
            "The other options are wrong.",
            "All other answers are incorrect.",
            "A common mistake here is to forget the minus sign.",
            "If you find an error, let me know.",
            "Note: this assumes that no apple is lost",
        )
    ),
)
same("a number that is said again", "72", "The answer is 72 (48 + 24).", "72 (6 * 12)", "We add.\n\n> **72**")
same("a bracket that is a factor", "6", "2 (3)", "2 (1 + 2)")
unknown(
    "an answer that is taken back",
    *(f"\\boxed{{5}}. {said}" for said in ("Hold on, half of 10 is not 4.", "Let me try again.", "The above is not the correct answer.", "Please ignore my previous answer.", "Strike that.", "I need to correct myself: it is less.")),
)
unknown("a program that has a result", "```python\nresult = 2 + 3\nprint(result)\n```", "```python\nanswer = 2 + x\nprint(answer)\n```")
unknown("a calculation that is cut off, or two values", "We add up.\n\nSo the total is 48 +", "We factor.\n\nThe solutions are x = 2 and x = -3.")
same("a yes or no before a dash", "yes", "Yes \u2014 it is prime.", "Yes: it is.", "Yes!")
apart("a no, and more than that", "no", "No \u2014 5", "No: 5")

# Congruences, conditions, hats, numbers in words before units, choices with their text, words beside a box
same(
    "a congruence has many representatives",
    r"x \equiv 2 \pmod 5",
    r"x\equiv 2\pmod{5}",
    r"x \equiv -3 \pmod{5}",
    r"x \equiv 7 \mod 5",
    "x ≡ 2 (mod 5)",
    r"x \equiv 12 \ (\text{mod } 5)",
)
apart("congruences", r"x \equiv 2 \pmod 5", r"x \equiv 3 \pmod 5", r"x \equiv 2 \pmod 6", r"y \equiv 2 \pmod 5", "x = 2")
unknown("a congruence of formulas", r"2x \equiv 3 \pmod 5", r"x \equiv a \pmod n", r"x \equiv a, 4 \pmod 5")
same(
    "what is excluded, however it is written",
    r"x \neq 1, 2",
    r"x \in \mathbb{R}, x \neq 1, 2",
    r"x \in \mathbb{R} \text{ and } x \neq 1, 2",
    r"x \notin \{1, 2\}",
    r"x \not\in \{1, 2\}",
    r"x \not= 1, 2",
    "x ∉ {1, 2}",
    r"x \in \mathbb{R} \setminus \{1, 2\}",
    "all real numbers except 1 and 2",
)
same("an exclusion of two", r"x \neq \pm 1", r"x \neq 1, -1", "x ≠ 1, x ≠ -1")
apart("exclusions", r"x \neq 1, 2", r"x \in \{1, 2\}", r"x \neq 1", r"x \neq 1, 3", r"x \in \mathbb{R}", r"x \notin [1, 2]")
same("the positive numbers", r"(0, \infty)", r"\mathbb{R}^+", r"\mathbb{R}^{+}", "x > 0", "all positive real numbers", "(0, infinity)")
apart("half lines", r"\mathbb{R}^+", r"\mathbb{R}^-", r"\mathbb{R}", "all nonnegative real numbers", "all nonzero real numbers", "positive integers")
unknown("other marks of sets of numbers", r"\mathbb{R}^2", r"\mathbb{Z}^+")
same("a union with a letter", r"(-\infty, 1) \cup (2, 3]", r"(-\infty, 1) U (2, 3]")
same("unit vectors", r"2\mathbf{i} + 3\mathbf{j}", r"2\hat{i} + 3\hat{j}", r"2\hat{\imath} + 3\hat{\jmath}", r"2\vec{i} + 3\vec{j}")
apart("vectors and other hats", r"\hat{i}", r"\hat{j}", "i", r"\hat{n}", r"\vec{n}", "n")
same("one arrow", r"\vec{AB}", r"\overrightarrow{AB}")
apart("arrows, lines and lengths", r"\overrightarrow{AB}", r"\overrightarrow{BA}", r"\overline{AB}", "AB")
same("a number in words before a unit", "5 dollars", "five dollars", "Five dollars", r"\text{five dollars}")
same("percent in words", r"10\%", "ten percent", "Ten percent")
same("what is counted in words", "21 apples", "twenty-one apples", "21")
same("a long number in words", "1200", "one thousand two hundred", "twelve hundred")
apart("numbers in words", "one thousand two hundred", "100200", "1000")
apart("no number in words before a unit", "a third day", "8 hours")
same(
    "the letter of a choice stands for all of it",
    "B",
    "(B) Paris",
    "(B) 12",
    "B) 12",
    "B. Paris",
    "B. 12 m/s",
    r"\text{(B) } 12",
    "Option B",
    "Option (B) is correct.",
    "The correct choice is option B: Paris.",
    "The answer is (B) Paris.",
    "The answer is option B.",
    "(B) 12\n\nExplanation: 3 * 4 = 12",
)
others("choices", "B", "(C) Paris", "Option C", "12")
apart("choices with their text", "(B) 12", "(C) 12", "(B) 13")
others("more than a choice", "A", "(A) only", "(A) or (B)", "12")
unknown("parts", "(a) 5", "(A) 1 (B) 2")
same("a system in one brace", r"\begin{cases} x = 1 \\ y = 2 \end{cases}", "The solution is:\n\n$$\\begin{cases} x = 1 \\\\ y = 2 \\end{cases}$$")
same("what a conclusion has in bold", "70000", "He sold it for $200,000.\n\nTherefore, Josh made a profit of **$70,000**.")
unknown("what a conclusion changes", "We add.\n\nTherefore, it is more than **5**.", "We add.\n\nThus it is not **5**.")
same("a yes with its reason", "yes", "Yes, the series converges because its terms vanish.", "Yes, it converges")
apart("a yes that says more", "yes", "Yes, the answer is no", "Yes, 5 because 2 + 3 = 5")
unknown(
    "words beside a box that make another number of it",
    *(f"{before}\\boxed{{5}}" for before in ("minus ", "negative ", "twice ", "half of ", "the square root of ", "3 times ", "(6, ", "[1, ")),
    *(f"\\boxed{{5}}{behind}" for behind in (" squared", " factorial", " plus 3", " remainder 2", " in base 7", " base 7", ", 6", "; 6", " x 10^3", " or 6")),
)
same(
    "words beside a box that leave it as it is",
    "5",
    *(f"{before}\\boxed{{5}}" for before in ("at least ", "a total of ", "the sum of them is ", "the minimum of ", "(so it is ", "2 + 3 = 5, ")),
    *(f"\\boxed{{5}}{behind}" for behind in (" moves", ", which is prime", r" \pmod 7", ", or five", " or 5.0", "!")),
)
unknown(
    "a box that is taken back",
    *(
        f"\\boxed{{5}}. {said}"
        for said in (
            "However, since x must be even, we choose 6.",
            "But x > 5, so there is no solution.",
            "But 5 is not in the domain.",
            "I misread the problem.",
            "Never mind, it's 6.",
            "Updated answer: 6",
            "Rechecking: we get 6.",
            "I am not certain.",
        )
    ),
)
same("a box that is not taken back", "5", *(f"\\boxed{{5}}. {said}" for said in ("However, 13 is prime.", "However you count, it is the same.", "But that is all.")))
same("an increase is a number", "5", "It increases by 5.")
others("a decrease is none", "5", "It decreases by 5.", "The function decreased by 5")

same("formulas behind a colon at the end", "a = 1, b = 2", "Solving the system gives:\na = 1\nb = 2", "We get:\n\n$$a = 1$$\n$$b = 2$$")
same("a sum behind a colon at the end", "10", "The sum is:\n1 + 2 + 3 + 4 = 10", "Adding up, we get:\n\n\\[ 10 \\]")
unknown("what stands behind a colon, and is no answer", "Given:\na = 1\nb = 2", "It is not:\n10", "Check: we insert it:\n- 5")
same("a condition that cuts an interval", r"x \in [0, 1], x \neq \frac{1}{2}", r"[0, \frac12) \cup (\frac12, 1]")
apart("a condition that cuts an interval", r"x \in [0, 1], x \neq \frac{1}{2}", r"x \in [0, 1]", r"x \neq \frac12", r"x \in [0, \frac12)")
others("a choice that is taken back", "A", "A. However, B is correct.")

# Parts in their order, alternatives to a box, logic, letters in two shapes, volumes, pounds, determinants, angles
same(
    "a list may be that of the parts in their order",
    "(a) $\\boxed{3}$\n(b) $\\boxed{5}$",
    "3, 5",
    "3 and 5",
    "(3, 5)",
    r"\boxed{3} for part (a) and \boxed{5} for part (b).",
)
others("a list is not that of the parts in another order", "(a) $\\boxed{3}$\n(b) $\\boxed{5}$", "5, 3", "5 and 3", "(5, 3)", "3 or 5", r"\{3, 5\}")
same("points for parts", "(a) $\\boxed{(1, 2)}$\n(b) $\\boxed{(3, 4)}$", "(1, 2), (3, 4)")
others("points for parts in another order", "(a) $\\boxed{(1, 2)}$\n(b) $\\boxed{(3, 4)}$", "(3, 4), (1, 2)")
same("one value for two parts", "5, 5", "(a) $\\boxed{5}$\n(b) $\\boxed{5}$")
unknown(
    "another number beside a box",
    *(
        f"\\boxed{{5}}. {said}"
        for said in (
            "Another solution is 6.",
            "The other solution is 6.",
            "A second solution is 6.",
            "$x = 6$ is also a solution.",
            "Adding 1 gives 6.",
            "Multiplying by 2 gives 10.",
            "Subtracting 1, we get 4.",
        )
    ),
    r"6 or \boxed{5}",
    r"$6$ or $\boxed{5}$",
    r"x = 6 or x = \boxed{5}",
    r"x = \boxed{5} or x = 6",
    r"\boxed{5} R 2",
    r"\boxed{5} r 2",
)
same(
    "what is said beside a box, and is no other answer",
    "5",
    r"\boxed{5}. Adding 2 and 3 gives 5.",
    r"\boxed{5}. The other root is negative.",
    r"\boxed{5}. Another way is to see that 2 + 3 = 5.",
    r"five or \boxed{5}",
    r"x = 5.0 or x = \boxed{5}",
    r"There are red or blue ones: \boxed{5}",
)
others("what one might think", "5", "One might think the answer is 5")
others("a moment is no time", "5 years", "5 years ago")
same("a time in a sentence", "5 years", "He was there 5 years ago.")
same("signs of logic join statements", "x = 1 or x = 2", r"x = 1 \lor x = 2", "x = 1 ∨ x = 2", r"x = 1 \vee x = 2")
same("signs of logic that cut an interval", "(1, 3)", r"x > 1 \land x < 3", "x > 1 ∧ x < 3")
unknown("signs of logic join no values", "p ∧ q", "p ∨ q", r"p \lor q", "2 ∨ 3", "(x < 1 ∧ x > 0) ∨ x = 3")
unknown("one of several conditions", "a < b or b < c", r"x + y < 2 \lor xy > 1", "2x + y = 3 or x - y = 1")
same("several conditions", "a < b and b < c", "b < c, a < b", r"a < b \land b < c")
same("dates", "March 5", "Mar 5", "5 March", "5th of Mar")
same("dates in September", "September 5", "Sept 5", "Sep. 5")
others("no month", "March 5", "Marc 5", "Marching 5")
same("a letter in two shapes", r"\phi", r"\varphi", "φ", "ϕ")
same("letters in two shapes", r"\sin\theta + \epsilon", r"\sin\vartheta + \varepsilon")
unknown("both shapes of a letter", r"\phi + \varphi", r"\phi = 2\varphi")
same("volumes", r"100\text{ mL}", "100 cm³", r"0.1\text{ L}", r"10^{-4}\text{ m}^3", "100")
same("areas", "2 hectares", "20000 square meters", "20000 m²")
same("densities", r"2\text{ g/mL}", r"2000\text{ kg/m}^3")
apart("volumes", "5 liters", "5 gallons", "5 meters", "5 cubic meters", "5 square meters")
same("pounds may be money", "10 pounds", "£10", "10 lb", "10")
apart("pounds", "£10", "10 lb", "10 kg")
others("pounds", "10 pounds", "£20", "20 lb", "10 kg", "$10")
same("rows in brackets may be a matrix", "[[1, 2], [3, 4]]", "[[1,2],[3,4]]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}")
others("rows in brackets", "[[1, 2], [3, 4]]", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", "[1, 2], [3, 4]", "1, 2, 3, 4")
same("a ratio in words", "3:4", "3 to 4", "6 to 8")
others("no ratio in words", "3 to 4", "4:3", "3/4", "3, 4")
same("determinants", "-2", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", r"\left|\begin{matrix}1&2\\3&4\end{matrix}\right|", r"2\begin{vmatrix}1&2\\3&4\end{vmatrix}+2")
same("determinants of letters", "ad - bc", r"\begin{vmatrix}a&b\\c&d\end{vmatrix}", r"\begin{vmatrix}d&c\\b&a\end{vmatrix}")
same("a determinant of three rows", "-3", r"\begin{vmatrix}1&2&3\\4&5&6\\7&8&10\end{vmatrix}")
others("a determinant is no matrix", r"\begin{vmatrix}a&b\\c&d\end{vmatrix}", r"\begin{pmatrix}a&b\\c&d\end{pmatrix}", "bc - ad", "2")
unknown("a determinant of a matrix that has none", r"\begin{vmatrix}1&2\\3&4\\5&6\end{vmatrix}")
same("transposes", "A^T", r"A^\top", r"A^{\top}", "A^{T}")
apart("transposes", "A^T", "A", "A^2", "T^A", "B^T", "A^{-1}")
unknown("transposes in products", "A^TA", "A^Tv", "vA^T", "A^TB", r"A^\top B", r"B^\top A^\top")
same("a block with a dot over each end", r"\frac{12}{99}", r"0.\dot1\dot2", r"0.\dot{1}\dot{2}", r"0.\overline{12}")
same("a block with digits between the dots", r"\frac{123}{999}", r"0.\dot12\dot3", r"0.\dot{1}2\dot{3}")
same("digits before dots", r"0.5\overline{12}", r"0.5\dot1\dot2")
others("dots", r"0.\dot1\dot2", r"0.\dot1", "0.12", r"0.1\dot2")
same("angles in minutes and seconds", "30.25°", "30°15'", r"30^\circ 15'", r"30^{\circ}15^{\prime}", "30°15'0''", "30.25")
same("angles in seconds", "1.025°", "1°1'30''", "1°1'30\"")
others("angles in minutes", "30°15'", "30.15°", "30°16'", "30°", "15")
unknown("more minutes than a degree has", "30°75'", "30.5°15'", "1°1'75''")
same("double factorials", "15", "5!!", r"\frac{7!!}{7}")
same("a double factorial of an even number", "48", "6!!")
apart("factorials", "4!!", "(4!)!", "4!", "4")
unknown("factorials", "n!!", "4!!!")
same("a base of one digit", r"\log_2 3", r"\log_23", r"\log_{2}3", r"\frac{\ln 3}{\ln 2}")
same("bases of one digit", r"\log_2\frac{125}{7}", r"3\log_25-\log_27")
others("bases", r"\log_{23}5", r"\log_235", r"\log_2 35")
unknown("bases of two digits without braces", r"\log_10 100", r"\log_23x", r"\log_23^2")
same(
    "residues of one modulus",
    r"x \equiv 1, 4 \pmod 5",
    r"x\equiv4,1\pmod5",
    r"x \equiv 1 \text{ or } 4 \pmod 5",
    r"x \equiv 1 \pmod 5 \text{ or } x \equiv 4 \pmod 5",
    "x ≡ 6, -1 (mod 5)",
)
others("residues of one modulus", r"x \equiv 1, 4 \pmod 5", r"x \equiv 1 \pmod 5", r"x \equiv 1, 4 \pmod 6", r"x \equiv 1, 3 \pmod 5", "x = 1, 4")
same("one residue twice", r"x \equiv 1 \pmod 5", r"x \equiv 1, 6 \pmod 5")

# Common equations, norms, conditions of `or` and `and`, units with hyphens, rows, ratios, exclamations, parts in their order
for equation in (
    r"y=\log_2 x",
    r"y=\log x",
    r"T=2\pi\sqrt{\frac{L}{g}}",
    r"v=\sqrt{2gh}",
    r"y=x\ln x",
    r"S=k\ln W",
    r"y=e^{\sqrt x}",
    r"y=\frac{1}{\sqrt x}",
    r"y>\log_2 x",
    r"f=\frac{1}{2\pi}\sqrt{\frac{k}{m}}",
    r"A=\sqrt{s(s-a)(s-b)(s-c)}",
    r"d=\sqrt{(x_2-x_1)^2+(y_2-y_1)^2}",
    r"E=E_0-\frac{RT}{nF}\ln Q",
    r"\gamma=\frac{1}{\sqrt{1-v^2/c^2}}",
    r"y=\sqrt[3]{x}",
):
    same("an equation with a root or a logarithm", equation, equation)
same("an equation, and its sides changed", r"v=\sqrt{2gh}", r"\sqrt{2gh}=v", r"v=\sqrt{2hg}")
apart("equations with logarithms", r"y=\log_2 x", r"y=\log_3 x", r"y=-\log_2 x", r"y=\log_2 x+1", r"y=x\ln x")
apart("equations with roots", r"v=\sqrt{2gh}", r"v=-\sqrt{2gh}", r"v=\sqrt{gh}", r"v=2\sqrt{gh}", r"T=2\pi\sqrt{\frac{L}{g}}", r"T=2\pi\sqrt{\frac{g}{L}}")
apart("inequalities with logarithms", r"y>\log_2 x", r"y<\log_2 x", r"y\ge\log_2 x", r"y>\log_3 x")
unknown(
    "`or` beside `and`, or beside a comma that is none of its own",
    r"x<0 or x>1, x\in\mathbb{R}",
    r"x>0 and x<1 or x>2 and x<3",
    r"x\ge2 or x\le-2, x\ne3",
    r"0<x \land x<1 \lor 2<x \land x<3",
    r"\{x | x<0 or x>1, x\in\mathbb{R}\}",
)
same("half lines and open intervals that `or` joins", r"(-\infty,0)\cup(1,2)\cup(3,\infty)", "x<0 or 1<x<2 or x>3", "x<0, 1<x<2, or x>3", r"x<0 \lor 1<x<2 \lor x>3")
same("an open interval or a half line", r"(0,1)\cup(3,\infty)", "0<x<1 or x>3")
same("two open intervals", r"(1,3)\cup(5,7)", "1<x<3 or 5<x<7")
others("open intervals", "1<x<3 or 5<x<7", "1<x<3", r"[1,3]\cup[5,7]", "(1,3)", "1<x<7")
unknown("a unit with a hyphen", "#### 5 newton-meters", r"\boxed{5} kilowatt-hours")
others("a unit with a hyphen, in all of its words", "It used 5 kilowatt-hours.", "5 kilowatts", "5 hours", "5")
others("a rate with hyphens, in all of its words", "He runs at 5 miles-per-hour.", "5 miles", "5 hours", "5")
same("a doubt that is overcome", "12", "Although it might seem tricky, the total is 12 apples.")
others("a doubt that stays", "12", "Although it is tricky, the total might be 12 apples.")
others("a unit with a hyphen", "5 foot-pounds", "5 feet", "5 pounds", "6 foot-pounds")
same("a rate in a sentence", "5 mph", "He runs at 5 miles an hour.", "He runs at 5 miles per hour.")
others("a rate in a sentence", "5 miles", "He runs at 5 miles an hour.", "He runs at 5 miles each hour.", "He runs at 5 miles every hour.")
same("a hyphen in what is counted", "5", r"\boxed{5} well-known numbers")
unknown(
    "a norm of a matrix",
    r"\|\begin{pmatrix}1&2\\3&4\end{pmatrix}\|",
    r"||\begin{pmatrix}3&0\\0&4\end{pmatrix}||",
    r"\|\begin{pmatrix}-3\end{pmatrix}\|",
)
same("a determinant in bars", "-2", r"|\begin{pmatrix}1&2\\3&4\end{pmatrix}|")
same("bars of both kinds", "2|x|", r"2\|x\|", r"\|2x\|")
same("mixed numbers in rows", "[[1 1/2, 2], [3, 4]]", r"\begin{pmatrix}3/2&2\\3&4\end{pmatrix}")
others("mixed numbers in rows", "[[1 1/2, 2], [3, 4]]", r"\begin{pmatrix}11/2&2\\3&4\end{pmatrix}")
same("a mixed number of thirds in rows", "[[1 2/3, 5], [0, 1]]", r"\begin{pmatrix}5/3&5\\0&1\end{pmatrix}")
same("functions in rows", r"[[\cos t, -\sin t], [\sin t, \cos t]]", r"\begin{pmatrix}\cos t&-\sin t\\\sin t&\cos t\end{pmatrix}")
same("brackets in rows", r"[[\frac{1}{2}, (1+2)/4], [f(1), 4]]", r"\begin{pmatrix}1/2&3/4\\f(1)&4\end{pmatrix}")
same("a ratio in words is reduced", "2:3", "10 to 15", "2 to 3")
same("a ratio in words of small numbers", "3:4", "9 to 12")
same("a ratio of three in words", "1:2:3", "1 to 2 to 3", "2 to 4 to 6")
others("a ratio in words is no time", "10 to 30", "10:30", "30:10")
others("a ratio in words is no time", "9 to 12", "9:12", "4:3")
unknown("marks of an exclamation, or of a factorial", "5! !")
others("an exclamation", "The total is 6!!", "48", "720", "6")
others("an exclamation", "It's 5!! 🎉", "15", "120", "5")
others("an exclamation", "The total is 6!", "720", "6")
same("factorials in formulas", "720", "6!", "$6!$", "The total is $6!$.")
same("an exclamation behind a word", "720", "The total is 720 apples!")
unknown("a congruence without a residue", r"x\equiv\pmod5", r"x\equiv\pmod7")
unknown("congruences of several moduli, of which one holds", "n≡0 (mod 2) or n≡0 (mod 3)")
PARTS = "\n".join(f"Part {n}: \\boxed{{{n * n}}}" for n in range(1, 11))
same("parts in the order of their numbers", "(1, 2)", "Part 9: \\boxed{1}\nPart 10: \\boxed{2}")
others("parts in the order of their numbers", "(2, 1)", "Part 9: \\boxed{1}\nPart 10: \\boxed{2}")
same("ten parts", PARTS, "1, 4, 9, 16, 25, 36, 49, 64, 81, 100", "(1, 4, 9, 16, 25, 36, 49, 64, 81, 100)")
others("ten parts in another order", PARTS, "(1, 100, 4, 9, 16, 25, 36, 49, 64, 81)", "100, 81, 64, 49, 36, 25, 16, 9, 4, 1")
same("a check that begins with the answer", "5", r"\boxed{5}. Multiplying 5 by 2 gives 10, as required.", r"\boxed{5}. Adding 5 + 7 = 12, the total given.")
unknown(
    "an alternative behind a box",
    r"\boxed{5}. However, 6 is also an answer.",
    r"\boxed{5}, as well as 7.",
    r"\boxed{5} (or 6)",
    r"\boxed{5}. x = 2 also works.",
)
unknown("an inverse or a transpose of what may be matrices", "(AB)^T", "(AB)^{-1}", "(AB)^-1", r"\left(AB\right)^{-1}", "{(AB)}^{-1}", "[AB]^T", "(A^{-1})^T", "(A^T)^{-1}", "(A+B)^T", "(A^T)^T")
same("an inverse of numbers", r"\frac{1}{a+b}", "(a+b)^{-1}", "(b+a)^{-1}")

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "grading" / "decisions.jsonl"
OUT.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
equal = sum(row["expected"] is True for row in ROWS)
different = sum(row["expected"] is False for row in ROWS)
print(f"{len(ROWS)} decisions: {equal} equal, {different} different, {len(ROWS) - equal - different} unknown")
