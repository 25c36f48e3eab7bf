"""The only part that runs inside the environments under test.

It imports nothing but the standard library, torch, NumPy and colbert-ai's stack, and nothing from the rest of
`harness`.
"""
