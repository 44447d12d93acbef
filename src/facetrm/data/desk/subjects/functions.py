"""Short Python functions: what they do, right and wrong bodies, and their tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Exercise:
    """A function that people ask for.

    Attributes:
        does: What it does, as in "a function that ...".
        names: Names that it may be given.
        parameters: Names of its parameters.
        right: Right bodies.
        wrong: Bodies that run but fail a test.
        tests: Arguments and the result of each test.
    """

    does: str
    names: tuple[str, ...]
    parameters: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    tests: tuple[tuple[tuple[object, ...], object], ...]


EXERCISES: Final = (
    Exercise(
        "returns the sum of the even numbers in a list",
        ("sum_even", "even_sum", "add_even_numbers"),
        "numbers",
        (
            "return sum(n for n in numbers if n % 2 == 0)",
            "total = 0\nfor n in numbers:\n    if n % 2 == 0:\n        total += n\nreturn total",
        ),
        (
            "return sum(n for n in numbers if n % 2 == 1)",
            "total = 0\nfor n in numbers:\n    if n % 2 == 0:\n        total += 1\nreturn total",
        ),
        ((([1, 2, 3, 4],), 6), (([],), 0), (([7, 9],), 0), (([-2, 5, 8],), 6)),
    ),
    Exercise(
        "counts the vowels in a word",
        ("count_vowels", "vowel_count", "number_of_vowels"),
        "word",
        (
            'return sum(letter in "aeiou" for letter in word.lower())',
            'count = 0\nfor letter in word.lower():\n    if letter in "aeiou":\n        count += 1\nreturn count',
        ),
        (
            'return sum(letter not in "aeiou" for letter in word.lower())',
            'return sum(letter in "aeio" for letter in word.lower())',
        ),
        ((("banana",), 3), (("Ube",), 2), (("",), 0), (("UNICORN",), 3)),
    ),
    Exercise(
        "returns the largest number in a list that is not empty",
        ("largest", "find_largest", "biggest_number"),
        "numbers",
        (
            "return max(numbers)",
            "best = numbers[0]\nfor n in numbers:\n    if n > best:\n        best = n\nreturn best",
        ),
        ("return min(numbers)", "best = 0\nfor n in numbers:\n    if n > best:\n        best = n\nreturn best"),
        ((([3, 9, 2],), 9), (([-5, -2, -8],), -2), (([4],), 4)),
    ),
    Exercise(
        "says whether a word reads the same backwards",
        ("is_palindrome", "palindrome", "reads_same_backwards"),
        "word",
        (
            "return word == word[::-1]",
            "for i in range(len(word) // 2):\n    if word[i] != word[-1 - i]:\n        return False\nreturn True",
        ),
        ("return word[0] == word[-1]", "return word != word[::-1]"),
        ((("level",), True), (("levers",), False), (("noon",), True), (("neon",), False)),
    ),
    Exercise(
        "turns a temperature in degrees Celsius into Fahrenheit",
        ("to_fahrenheit", "celsius_to_fahrenheit", "fahrenheit"),
        "celsius",
        ("return celsius * 9 / 5 + 32", "return celsius * 1.8 + 32"),
        ("return celsius * 5 / 9 + 32", "return (celsius + 32) * 9 / 5"),
        (((0,), 32), ((100,), 212), ((-40,), -40), ((10,), 50)),
    ),
    Exercise(
        "returns the factorial of a number",
        ("factorial", "compute_factorial", "fact"),
        "n",
        (
            "result = 1\nfor i in range(2, n + 1):\n    result *= i\nreturn result",
            "product = 1\nwhile n > 1:\n    product *= n\n    n -= 1\nreturn product",
        ),
        (
            "result = 1\nfor i in range(2, n):\n    result *= i\nreturn result",
            "result = 0\nfor i in range(1, n + 1):\n    result += i\nreturn result",
        ),
        (((0,), 1), ((1,), 1), ((5,), 120), ((7,), 5040)),
    ),
    Exercise(
        "says whether a year is a leap year",
        ("is_leap_year", "leap_year", "leap"),
        "year",
        (
            "return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
            "if year % 400 == 0:\n    return True\nif year % 100 == 0:\n    return False\nreturn year % 4 == 0",
        ),
        ("return year % 4 == 0", "return year % 4 == 0 and year % 100 != 0"),
        (((2024,), True), ((1900,), False), ((2000,), True), ((2023,), False)),
    ),
    Exercise(
        "returns the words of a sentence in reverse order",
        ("reverse_words", "words_backwards", "turn_words_around"),
        "sentence",
        (
            'return " ".join(sentence.split()[::-1])',
            'words = sentence.split()\nwords.reverse()\nreturn " ".join(words)',
        ),
        ("return sentence[::-1]", 'return " ".join(word[::-1] for word in sentence.split())'),
        ((("the cat sat",), "sat cat the"), (("hello",), "hello"), (("a b",), "b a")),
    ),
    Exercise(
        "returns a list without its duplicates, in the same order",
        ("unique", "remove_duplicates", "without_duplicates"),
        "items",
        (
            "return list(dict.fromkeys(items))",
            "found = []\nfor item in items:\n    if item not in found:\n        found.append(item)\nreturn found",
        ),
        ("return sorted(set(items))[::-1]", "return [item for item in items if items.count(item) == 1]"),
        ((([3, 1, 3, 2],), [3, 1, 2]), (([],), []), ((["b", "a", "b"],), ["b", "a"])),
    ),
    Exercise(
        "returns the average of a list of numbers that is not empty",
        ("average", "mean", "mean_of"),
        "numbers",
        (
            "return sum(numbers) / len(numbers)",
            "total = 0\nfor n in numbers:\n    total += n\nreturn total / len(numbers)",
        ),
        ("return sum(numbers) // len(numbers) + 1", "return sum(numbers) / 2"),
        ((([1, 2, 3],), 2), (([5],), 5), (([1, 2],), 1.5)),
    ),
    Exercise(
        "says whether a number is prime",
        ("is_prime", "prime", "check_prime"),
        "n",
        (
            "if n < 2:\n    return False\nfor i in range(2, n):\n    if n % i == 0:\n        return False\nreturn True",
            "return n > 1 and all(n % i for i in range(2, int(n ** 0.5) + 1))",
        ),
        ("return n % 2 == 1", "for i in range(2, n):\n    if n % i == 0:\n        return False\nreturn True"),
        (((2,), True), ((9,), False), ((17,), True), ((1,), False), ((15,), False)),
    ),
    Exercise(
        "counts how often a letter occurs in a text",
        ("count_letter", "occurrences", "how_often"),
        "text, letter",
        (
            "return text.count(letter)",
            "count = 0\nfor character in text:\n    if character == letter:\n        count += 1\nreturn count",
        ),
        ("return text.find(letter)", "return 1 if letter in text else 0"),
        ((("banana", "a"), 3), (("sky", "e"), 0), (("tt", "t"), 2)),
    ),
    Exercise(
        "returns the longest word of a sentence",
        ("longest_word", "find_longest", "longest"),
        "sentence",
        (
            "return max(sentence.split(), key=len)",
            'best = ""\nfor word in sentence.split():\n    if len(word) > len(best):\n        best = word\nreturn best',
        ),
        ("return max(sentence.split())", "return sentence.split()[-1]"),
        ((("a banana is yellow stuff",), "banana"), (("one three two",), "three"), (("big",), "big")),
    ),
    Exercise(
        "squares every number of a list",
        ("squares", "square_all", "squared"),
        "numbers",
        ("return [n * n for n in numbers]", "result = []\nfor n in numbers:\n    result.append(n ** 2)\nreturn result"),
        ("return [n * 2 for n in numbers]", "return [n + n for n in numbers]"),
        ((([1, 2, 3],), [1, 4, 9]), (([],), []), (([-4],), [16])),
    ),
    Exercise(
        "adds up the digits of a number that is not negative",
        ("digit_sum", "sum_digits", "sum_of_digits"),
        "n",
        (
            "return sum(int(digit) for digit in str(n))",
            "total = 0\nwhile n > 0:\n    total += n % 10\n    n //= 10\nreturn total",
        ),
        ("return len(str(n))", "return n % 10"),
        (((123,), 6), ((0,), 0), ((905,), 14)),
    ),
    Exercise(
        "returns the numbers of a list that are greater than a limit",
        ("above", "greater_than", "filter_above"),
        "numbers, limit",
        (
            "return [n for n in numbers if n > limit]",
            "found = []\nfor n in numbers:\n    if n > limit:\n        found.append(n)\nreturn found",
        ),
        ("return [n for n in numbers if n < limit]", "return [n for n in numbers if n >= limit]"),
        ((([1, 5, 9], 4), [5, 9]), (([2, 2], 2), []), (([7], 1), [7])),
    ),
    Exercise(
        "returns the first n Fibonacci numbers, beginning with 0 and 1",
        ("fibonacci", "fib", "first_fibonacci"),
        "n",
        (
            "numbers = []\na, b = 0, 1\nfor _ in range(n):\n    numbers.append(a)\n    a, b = b, a + b\nreturn numbers",
            "numbers = [0, 1]\nwhile len(numbers) < n:\n    numbers.append(numbers[-1] + numbers[-2])\nreturn "
            "numbers[:n]",
        ),
        (
            "return list(range(n))",
            "numbers = []\na, b = 1, 1\nfor _ in range(n):\n    numbers.append(a)\n    a, b = b, a + b\nreturn numbers",
        ),
        (((5,), [0, 1, 1, 2, 3]), ((1,), [0]), ((7,), [0, 1, 1, 2, 3, 5, 8])),
    ),
    Exercise(
        "counts the words of a text",
        ("count_words", "word_count", "number_of_words"),
        "text",
        ("return len(text.split())", "count = 0\nfor word in text.split():\n    count += 1\nreturn count"),
        ("return len(text)", 'return text.count(" ")'),
        ((("one two three",), 3), (("",), 0), (("hello",), 1)),
    ),
    Exercise(
        "returns the greatest common divisor of two positive numbers",
        ("gcd", "common_divisor", "greatest_common_divisor"),
        "a, b",
        (
            "while b:\n    a, b = b, a % b\nreturn a",
            "for d in range(min(a, b), 0, -1):\n    if a % d == 0 and b % d == 0:\n        return d",
        ),
        ("return min(a, b)", "return a * b"),
        (((12, 18), 6), ((7, 5), 1), ((9, 3), 3)),
    ),
    Exercise(
        "merges two sorted lists into one sorted list",
        ("merge", "merge_sorted", "merge_lists"),
        "left, right",
        (
            "return sorted(left + right)",
            "result = list(left)\nfor item in right:\n    result.append(item)\nresult.sort()\nreturn result",
        ),
        ("return left + right", "return sorted(left)"),
        ((([1, 4], [2, 3]), [1, 2, 3, 4]), (([], [1]), [1]), (([5], [0]), [0, 5])),
    ),
)
