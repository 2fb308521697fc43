"""Distil chain-of-thought reasoning into small language models, and measure at what scale reasoning appears.

The main names can be taken from here, `from cotkit import distill`; each loads its module when it is first used.
"""
__version__ = "0.1.0"

_NAMES = {
    'data.core': 'CotkitError Problem Request Completion Rationale Example question_key',
    'data.answers': 'Accuracy is_correct',
    'data.reading': 'read_answer',
    'data.columns': 'Columns',
    'data.tasks': 'Task load_task task_names register_task',
    'data.formats': 'Format AnswerOnly ZeroShotCoT FewShotCoT FewShotAnswerOnly StepByStep Mixture '
                    'register_format get_format demonstrations gold_rationale examples_from contaminated',
    'data.decomposition': 'parse_steps DecompositionError',
    'data.socratic_formats': 'Decomposer Solver Unified FewShotSocratic QuestionsForSteps',
    'data.records': 'RunRecord read_records',
    'models.config': 'StudentConfig LoRA DecodingParams',
    'models.students': 'Student make_student load_model with_lora',
    'models.generate': 'generate',
    'teachers.protocol': 'Teacher TeacherError SamplingParams OracleTeacher ReplayTeacher',
    'teachers.openai': 'OpenAITeacher EndpointConfig',
    'teachers.local': 'LocalTeacher',
    'teachers.store': 'Store',
    'teachers.rate_limits': 'RequestLimits',
    'teachers.collect': 'collect acollect',
    'teachers.batch': 'write_batch read_batch',
    'teachers.curate': 'curate majority_vote register_filter',
    'training.config': 'TrainConfig KDConfig OnPolicyConfig',
    'training.losses': 'Loss CrossEntropy register_loss',
    'training.checkpoints': 'read_history read_training',
    'training.trainer': 'train Monitor TrainingSet',
    'training.teacher_tokens': 'TeacherModel',
    'training.soft_targets': 'SoftTargets FullVocabulary',
    'training.on_policy': 'OnPolicy',
    'training.distill': 'distill',
    'training.specialize': 'specialize Matching',
    'training.socratic': 'socratic socratic_students SocraticStudents',
    'training.socratic': 'socratic socratic_students SocraticStudents',
    'pretraining.vocabulary': 'Vocabulary read_vocabulary',
    'pretraining.spans': 'SpanRule',
    'pretraining.simplify': 'simplify simplify_dataset',
    'pretraining.corpus': 'Corpus build_corpus matched_corpora',
    'pretraining.loss_tables': 'LossTable read_losses',
    'pretraining.scaling': 'fit_law FitConfig predict_loss hold_out',
    'pretraining.frontiers': 'compute_optimal break_test',
    'evaluation.strategies': 'SingleTurn Vote Likelihood register_strategy',
    'evaluation.iterative': 'Iterative UnifiedDialogue',
    'evaluation.iterative': 'Iterative UnifiedDialogue',
    'evaluation.metrics': 'Prediction register_metric',
    'evaluation.statistics': 'Estimate',
    'evaluation.evaluate': 'Evaluation evaluate compare compare_seeds summarise select_checkpoint',
    'evaluation.simple_items': 'simple_items zero_shot',
    'evaluation.emergence_tables': 'read_curves',
    'evaluation.questions': 'score_questions evaluate_questions attribute_error',
    'evaluation.emergence': 'judge',
    'reporting.html': 'html_report',
    'reporting.publish': 'publish',
}
_HOME = {name: f'cotkit.{module}' for module, names in _NAMES.items() for name in names.split()}
__all__ = list(_HOME)


def __getattr__(name: str):
    "A main name, or a wing such as `cotkit.training`, loaded when it is asked for"
    from importlib import import_module
    if name in _HOME: return getattr(import_module(_HOME[name]), name)
    wing = f'{__name__}.{name}'
    if any(home.startswith(f'{wing}.') for home in _HOME.values()): return import_module(wing)
    raise AttributeError(f'cotkit has no {name!r}; its main names: {", ".join(sorted(_HOME))}')


def __dir__() -> list[str]: return sorted({*globals(), *_HOME})
