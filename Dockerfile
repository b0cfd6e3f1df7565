# docker build -t knowfuse . && docker run --rm knowfuse python train.py
FROM python:3.11-slim
WORKDIR /knowfuse
COPY requirements.txt pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
ENV KNOWFUSE_CACHE=/knowfuse/cache
CMD ["python", "train.py"]
